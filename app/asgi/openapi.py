"""What the OpenAPI document says of each route: bodies, answers, examples.

The endpoints read raw bytes, so that every mistake is answered in this service's own shape; hence the framework can't see
their bodies, and they are named here. The schemas come from the validators and the frames themselves.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from app.schema.frames import Delta, End, Error, Start
from app.schema.native import StreamBody
from app.schema.openai import ChatCompletionBody, CompletionBody
from app.streams.status import StreamStatus

TITLE = "Streaming inference"
VERSION = "1"
DESCRIPTION = (
    "Language models that answer token by token. Native streams are at /v1/streams; the OpenAI dialect is at "
    "/v1/chat/completions and /v1/completions. Every error has the same shape, on every route."
)

_BODIES: tuple[type[BaseModel], ...] = (StreamBody, ChatCompletionBody, CompletionBody)
_FRAMES = (Start, Delta, End, Error)
_STRUCTS = (*_FRAMES, StreamStatus)
_REF = "#/components/schemas/"

_ERROR_SCHEMA: dict[str, Any] = {
    "title": "ErrorBody",
    "description": "Every error of every route. `param` names the field or header at fault.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_MODEL_SCHEMA: dict[str, Any] = {
    "title": "Model",
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer", "description": "Unix seconds."},
        "owned_by": {"type": "string"},
    },
}
_STREAM_RESULT_SCHEMA: dict[str, Any] = {
    "title": "StreamResult",
    "description": "A whole stream: what its frames add up to.",
    "type": "object",
    "required": [
        "stream",
        "model",
        "created",
        "seed",
        "choices",
        "usage",
        "timings",
        "text_sha256",
        "cursor",
    ],
    "properties": {
        "stream": {"type": "string"},
        "model": {"type": "string"},
        "created": {"type": "integer", "description": "Unix seconds."},
        "seed": {"type": "integer"},
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "text", "finish_reason", "stop_reason"],
                "properties": {
                    "index": {"type": "integer"},
                    "text": {"type": "string"},
                    "finish_reason": {"enum": ["stop", "length", "content_filter", "cancelled"]},
                    "stop_reason": {"type": ["string", "integer", "null"]},
                    "token_ids": {"type": "array", "items": {"type": "integer"}},
                    "logprobs": {"type": "array", "items": {"$ref": f"{_REF}Logprob"}},
                },
            },
        },
        "usage": {"$ref": f"{_REF}Usage"},
        "timings": {"$ref": f"{_REF}Timings"},
        "text_sha256": {"type": "array", "items": {"type": "string"}},
        "cursor": {"type": "string"},
    },
}


def _error_example(
    message: str, code: str, *, param: str | None, kind: str = "invalid_request_error"
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_MODEL_EXAMPLE = {
    "id": "storyteller",
    "object": "model",
    "created": 1790000000,
    "owned_by": "streaming-inference",
}
_USAGE_EXAMPLE = {"prompt_tokens": 17, "completion_tokens": 2, "total_tokens": 19, "cached_tokens": 0}
_TIMINGS_EXAMPLE = {"queue_ms": 0.4, "ttft_ms": 9.1, "total_ms": 31.0, "tokens_per_s": 64.5}
_HASH_EXAMPLE = "c4d00cdd29e0d23f5a8f0cda6e6ff0b7ac88b2f3d6e43ac0eaa6ebf5cd2a1c28"
_STREAM_EXAMPLE = "st_00112233445566778899aabbccddeeff"

_STREAM_EVENTS_EXAMPLE = (
    f'id: {_STREAM_EXAMPLE}:0\ndata: {{"type":"start","cursor":"0","stream":"{_STREAM_EXAMPLE}","model":"storyteller",'
    '"created":1790000000,"seed":1234,"prompt_tokens":17}\n\n'
    f'id: {_STREAM_EXAMPLE}:2\ndata: {{"type":"delta","cursor":"2","index":0,"text":"Once there","tokens":2}}\n\n'
    f'id: {_STREAM_EXAMPLE}:2\ndata: {{"type":"end","cursor":"2","choices":[{{"index":0,"finish_reason":"stop",'
    '"stop_reason":null}],"usage":{"prompt_tokens":17,"completion_tokens":2,"total_tokens":19,"cached_tokens":0},'
    '"timings":{"queue_ms":0.4,"ttft_ms":9.1,"total_ms":31.0,"tokens_per_s":64.5},'
    f'"text_sha256":["{_HASH_EXAMPLE}"]}}\n\n'
)
_STREAM_RESULT_EXAMPLE = {
    "stream": _STREAM_EXAMPLE,
    "model": "storyteller",
    "created": 1790000000,
    "seed": 1234,
    "choices": [{"index": 0, "text": "Once there", "finish_reason": "stop", "stop_reason": None}],
    "usage": _USAGE_EXAMPLE,
    "timings": _TIMINGS_EXAMPLE,
    "text_sha256": [_HASH_EXAMPLE],
    "cursor": "2",
}

_STREAM_STATUS_EXAMPLE = {
    "stream": _STREAM_EXAMPLE,
    "model": "storyteller",
    "created": 1790000000,
    "state": "ended",
    "cursor": "2",
    "usage": _USAGE_EXAMPLE,
    "expires_at": 1790000600,
    "choices": [{"index": 0, "finish_reason": "stop", "stop_reason": None}],
    "error": None,
}

# Examples are components, because the framework would drop every null from them if they stood in the routes.
_EXAMPLES: dict[str, Any] = {
    "InvalidRequest": _error_example(
        "max_tokens must be at least 1, not 0.", "invalid_request", param="max_tokens"
    ),
    "ModelNotFound": _error_example(
        "The model 'unknown' does not exist. GET /v1/models lists those that do.",
        "model_not_found",
        param="model",
    ),
    "StreamNotFound": _error_example("There is no such stream.", "stream_not_found", param=None),
    "StreamExpired": _error_example("The stream is past its retention.", "stream_expired", param=None),
    "InvalidCursor": _error_example(
        "The cursor 9 is beyond the stream, which is at 2.", "invalid_cursor", param="after"
    ),
    "IdempotencyConflict": _error_example(
        "This Idempotency-Key was used for another body.", "idempotency_conflict", param="Idempotency-Key"
    ),
    "TooManyReaders": _error_example(
        "The stream has 8 readers already.", "too_many_readers", param=None, kind="rate_limit_error"
    ),
    "BodyTooLarge": _error_example("The body is larger than 1048576 bytes.", "body_too_large", param=None),
    "UnsupportedMediaType": _error_example(
        "Send the body with content-type: application/json.", "unsupported_media_type", param="content-type"
    ),
    "GeneratorUnavailable": _error_example(
        "No stream can start at the moment.", "generator_unavailable", param=None, kind="server_error"
    ),
    "InternalError": _error_example(
        "The server failed to handle the request.", "internal_error", param=None, kind="server_error"
    ),
}


def _example(name: str, value: Any) -> dict[str, Any]:
    """Registers an example and refers to it."""
    _EXAMPLES[name] = value
    return _example_ref(name)


def _example_ref(name: str) -> dict[str, Any]:
    return {"example": {"$ref": f"#/components/examples/{name}"}}


def _openai_schema(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "created": {"type": "integer", "description": "Unix seconds."},
            "model": {"type": "string"},
            "stream_id": {"type": "string"},
            "seed": {"type": "integer"},
            "choices": {"type": "array", "items": {"type": "object", "properties": choice}},
            "usage": {"type": "object"},
        },
    }


_OPENAI_CHOICE: dict[str, Any] = {
    "index": {"type": "integer"},
    "logprobs": {"type": ["object", "null"]},
    "finish_reason": {"enum": ["stop", "length", "content_filter"]},
    "stop_reason": {"type": ["string", "integer", "null"]},
}
_MESSAGE = {"type": "object", "properties": {"role": {"const": "assistant"}, "content": {"type": "string"}}}


def _openai_example(id_: str, kind: str, said: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": id_,
        "object": kind,
        "created": 1790000000,
        "model": "storyteller",
        "stream_id": _STREAM_EXAMPLE,
        "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": "stop", "stop_reason": None}],
        "seed": 1234,
        "usage": {
            "prompt_tokens": 17,
            "completion_tokens": 2,
            "total_tokens": 19,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def _chunk_example(id_: str, kind: str, said: str) -> str:
    head = f'data: {{"id":"{id_}","object":"{kind}","created":1790000000,"model":"storyteller","choices":[{{"index":0,'
    return f'{head}{said},"logprobs":null,"finish_reason":null}}]}}\n\ndata: [DONE]\n\n'


_HEX = _STREAM_EXAMPLE.removeprefix("st_")

_STREAM_ID = {"X-Stream-Id": {"description": "The stream's id.", "schema": {"type": "string"}}}


def _answers(
    name: str, schema: dict[str, Any], example: Any, *, events: str | None = None
) -> dict[int | str, dict[str, Any]]:
    content: dict[str, Any] = {"application/json": {"schema": schema, "examples": _example(name, example)}}
    if events is not None:
        events_schema = {"type": "string"}
        content["text/event-stream"] = {
            "schema": events_schema,
            "examples": _example(f"{name}Events", events),
        }
    answer: dict[str, Any] = {"description": "The answer.", "content": content}
    if events is not None:
        answer["headers"] = _STREAM_ID
    return {200: answer}


def _error(description: str, example: str) -> dict[str, Any]:
    content = {"schema": {"$ref": f"{_REF}ErrorBody"}, "examples": _example_ref(example)}
    return {"description": description, "content": {"application/json": content}}


def _busy(description: str, example: str = "GeneratorUnavailable") -> dict[str, Any]:
    headers = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return {**_error(description, example), "headers": headers}


_ANY_ERROR: dict[int | str, dict[str, Any]] = {"default": _error("Any other error.", "InternalError")}
_NO_MODEL = _error("The model is not served here.", "ModelNotFound")
_STREAMING_ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("A field is wrong, or the prompt is too long.", "InvalidRequest"),
    404: _NO_MODEL,
    409: _error("The Idempotency-Key was used for another body.", "IdempotencyConflict"),
    413: _error("The body is too large.", "BodyTooLarge"),
    415: _error("The body is not JSON by its content type.", "UnsupportedMediaType"),
    503: _busy("Overloaded, or no generator is up."),
    **_ANY_ERROR,
}

_STREAM_ERRORS: dict[int | str, dict[str, Any]] = {
    404: _error("There is no such stream, or it is another caller's.", "StreamNotFound"),
    410: _error("The stream is past its retention.", "StreamExpired"),
    **_ANY_ERROR,
}


def _parameter(name: str, place: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": place, "description": description, "schema": {"type": "string"}}


_IDEMPOTENCY_KEY = _parameter(
    "Idempotency-Key",
    "header",
    "1 to 255 characters of visible ASCII. The same key with the same body gives the same stream, read from its start.",
)
_LAST_EVENT_ID = _parameter(
    "Last-Event-ID", "header", "`<stream>:<cursor>`, the id of the last event that was read."
)
_AFTER = _parameter("after", "query", "A cursor: the stream is read from behind it.")


def _body(body_type: type[BaseModel], *parameters: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": f"{_REF}{body_type.__name__}"}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "parameters": [_IDEMPOTENCY_KEY, *parameters],
    }


CREATE_STREAM: dict[str, Any] = {
    "summary": "Start a stream",
    "description": (
        "Server-sent events, one frame in each; `stream: false` gives one JSON at the end, `detach: true` the id at once. "
        "With `Last-Event-ID` no stream is started: the answer is the rest of that one, whatever the body."
    ),
    "operation_id": "createStream",
    "responses": {
        **_answers(
            "StreamResult",
            {"$ref": f"{_REF}StreamResult"},
            _STREAM_RESULT_EXAMPLE,
            events=_STREAM_EVENTS_EXAMPLE,
        ),
        202: {
            "description": "The stream runs; with `detach: true`.",
            "headers": {
                "Location": {"description": "The stream.", "schema": {"type": "string"}},
                **_STREAM_ID,
            },
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": {"stream": {"type": "string"}}},
                    "examples": _example("Detached", {"stream": _STREAM_EXAMPLE}),
                }
            },
        },
        **_STREAMING_ERRORS,
    },
    "openapi_extra": _body(StreamBody, _LAST_EVENT_ID),
}
READ_STREAM: dict[str, Any] = {
    "summary": "Read a stream",
    "description": (
        "Server-sent events for an EventSource: from the start, or from behind `Last-Event-ID` or `after`, live to the end. "
        "Behind the last cursor there is the terminal frame once more."
    ),
    "operation_id": "readStream",
    "response_class": Response,
    "responses": {
        200: {
            "description": "The events.",
            "headers": _STREAM_ID,
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "examples": _example_ref("StreamResultEvents"),
                }
            },
        },
        204: {"description": "To an EventSource that comes back after the end: there is nothing more."},
        400: _error("The stream has no such cursor.", "InvalidCursor"),
        429: _busy("The stream has as many readers as it may have.", "TooManyReaders"),
        **_STREAM_ERRORS,
    },
    "openapi_extra": {"parameters": [_LAST_EVENT_ID, _AFTER]},
}
GET_STREAM: dict[str, Any] = {
    "summary": "Look at a stream",
    "description": "`state` is `running`, `ended` or `failed`; an ended stream is forgotten at `expires_at`, in Unix seconds.",
    "operation_id": "getStream",
    "responses": {
        **_answers("StreamStatus", {"$ref": f"{_REF}StreamStatus"}, _STREAM_STATUS_EXAMPLE),
        **_STREAM_ERRORS,
    },
}
CANCEL_STREAM: dict[str, Any] = {
    "summary": "Cancel a stream",
    "description": "Answers when the stream has ended. A stream that has ended stays as it is, however often it is cancelled.",
    "operation_id": "cancelStream",
    "responses": {
        200: {
            "description": "The stream as it is now.",
            "content": {
                "application/json": {
                    "schema": {"$ref": f"{_REF}StreamStatus"},
                    "examples": _example_ref("StreamStatus"),
                }
            },
        },
        **_STREAM_ERRORS,
    },
}
CHAT_COMPLETION: dict[str, Any] = {
    "summary": "Answer a chat (OpenAI dialect)",
    "description": "Unknown fields are ignored. `stream: true` gives chunks as server-sent events, then `[DONE]`.",
    "operation_id": "createChatCompletion",
    "responses": {
        **_answers(
            "ChatCompletion",
            _openai_schema("chat.completion", {**_OPENAI_CHOICE, "message": _MESSAGE}),
            _openai_example(
                f"chatcmpl-{_HEX}",
                "chat.completion",
                {"message": {"role": "assistant", "content": "Once there"}},
            ),
            events=_chunk_example(
                f"chatcmpl-{_HEX}", "chat.completion.chunk", '"delta":{"content":"Once there"}'
            ),
        ),
        **_STREAMING_ERRORS,
    },
    "openapi_extra": _body(ChatCompletionBody),
}
COMPLETION: dict[str, Any] = {
    "summary": "Go on with a text (OpenAI dialect)",
    "description": "Unknown fields are ignored. `stream: true` gives chunks as server-sent events, then `[DONE]`.",
    "operation_id": "createCompletion",
    "responses": {
        **_answers(
            "Completion",
            _openai_schema("text_completion", {**_OPENAI_CHOICE, "text": {"type": "string"}}),
            _openai_example(f"cmpl-{_HEX}", "text_completion", {"text": "Once there"}),
            events=_chunk_example(f"cmpl-{_HEX}", "text_completion", '"text":"Once there"'),
        ),
        **_STREAMING_ERRORS,
    },
    "openapi_extra": _body(CompletionBody),
}
LIST_MODELS: dict[str, Any] = {
    "summary": "List the models",
    "operation_id": "listModels",
    "responses": {
        **_answers(
            "ModelList",
            {
                "type": "object",
                "required": ["object", "data"],
                "properties": {
                    "object": {"const": "list"},
                    "data": {"type": "array", "items": {"$ref": f"{_REF}Model"}},
                },
            },
            {"object": "list", "data": [_MODEL_EXAMPLE]},
        ),
        **_ANY_ERROR,
    },
}
GET_MODEL: dict[str, Any] = {
    "summary": "Describe a model",
    "operation_id": "getModel",
    "responses": {
        **_answers("Model", {"$ref": f"{_REF}Model"}, _MODEL_EXAMPLE),
        404: _NO_MODEL,
        **_ANY_ERROR,
    },
}
HEALTH: dict[str, Any] = {
    "summary": "Health",
    "operation_id": "health",
    "responses": {
        **_answers("Health", {"type": "object", "properties": {"status": {"const": "ok"}}}, {"status": "ok"}),
        503: _busy("No stream could start."),
        **_ANY_ERROR,
    },
}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Adds to a generated document the components that its routes refer to."""
    _, bodies = models_json_schema(
        [(body, "validation") for body in _BODIES], ref_template=f"{_REF}{{model}}"
    )
    _, frames = msgspec.json.schema_components(_STRUCTS, ref_template=f"{_REF}{{name}}")
    components = document.setdefault("components", {})
    components["schemas"] = {
        **components.get("schemas", {}),
        **bodies["$defs"],
        **frames,
        "Frame": {"oneOf": [{"$ref": f"{_REF}{frame.__name__}"} for frame in _FRAMES]},
        "ErrorBody": _ERROR_SCHEMA,
        "Model": _MODEL_SCHEMA,
        "StreamResult": _STREAM_RESULT_SCHEMA,
    }
    components["securitySchemes"] = {"ApiKey": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"ApiKey": []}]  # needed only where the server has a file of keys
    components["examples"] = {name: {"value": value} for name, value in _EXAMPLES.items()}
    return document
