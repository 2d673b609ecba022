"""Frames, requests and errors as protocol buffers and gRPC statuses. No I/O here.

A request becomes the object that a JSON client would have sent, field by field, so that one validator sees both: what is not
set is not in it, and what is set to zero is.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from pydantic_core import from_json

from app.errors import InvalidRequest, ServiceError
from app.proto import generation_pb2 as pb
from app.schema.frames import (
    ChoiceEnd,
    Delta,
    End,
    Error,
    ErrorDetail,
    FinishReason,
    Frame,
    Logprob,
    Start,
    Timings,
    TopLogprob,
    Usage,
)
from app.streams.status import StreamStatus

# Fields of a request that are the same on both sides when they are set.
_PLAIN_FIELDS = (
    "model",
    "max_tokens",
    "min_tokens",
    "ignore_eos",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "n",
    "logprobs",
    "return_token_ids",
    "detach",
    "timeout_s",
)
_ON_DISCONNECT: dict[int, str] = {
    pb.ON_DISCONNECT_CANCEL: "cancel",
    pb.ON_DISCONNECT_GRACE: "grace",
    pb.ON_DISCONNECT_CONTINUE: "continue",
}
_FINISH_REASONS: dict[FinishReason, pb.FinishReason] = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "content_filter": pb.FINISH_REASON_CONTENT_FILTER,
    "cancelled": pb.FINISH_REASON_CANCELLED,
}
_FINISH_REASON_NAMES = {number: name for name, number in _FINISH_REASONS.items()}
_SCHEMA = "response_format.json_schema.schema"


class Status(NamedTuple):
    """How a call ends that failed: the name of a status code, its details and the trailing metadata."""

    code: str
    details: str
    metadata: list[tuple[str, str]]


def to_status(error: ServiceError) -> Status:
    """The status of a call that `error` ended. Values that are no visible ASCII are percent-encoded."""
    metadata = [("error-code", error.code), ("error-type", error.type)]
    if error.param is not None:
        metadata.append(("error-param", quote(error.param, safe=_VISIBLE)))
    if error.retry_after_s is not None:
        metadata.append(("retry-after", str(error.retry_after_s)))
    return Status(error.grpc_status, f"{error.code}: {error.message}", metadata)


_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


# Requests.


def to_body(request: pb.GenerateRequest) -> dict[str, Any]:
    """The fields of a request as a JSON client would have sent them. Raises `InvalidRequest` for a schema that is no JSON."""
    body: dict[str, Any] = {name: getattr(request, name) for name in _PLAIN_FIELDS if request.HasField(name)}
    body |= _input(request)
    if request.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    if request.stop:
        body["stop"] = list(request.stop)
    if request.stop_token_ids:
        body["stop_token_ids"] = list(request.stop_token_ids)
    if request.HasField("response_format"):
        body["response_format"] = _response_format(request.response_format)
    if request.on_disconnect != pb.ON_DISCONNECT_UNSPECIFIED:
        # A number that this version has no name for is refused like a word that it does not know.
        body["on_disconnect"] = _ON_DISCONNECT.get(request.on_disconnect, request.on_disconnect)
    return body


def _input(request: pb.GenerateRequest) -> dict[str, Any]:
    given = request.WhichOneof("input")
    if given == "prompt":
        return {"prompt": request.prompt}
    if given == "messages":
        return {"messages": [_message(message) for message in request.messages.messages]}
    if given == "prompt_token_ids":
        return {"prompt_token_ids": list(request.prompt_token_ids.ids)}
    return {}


def _message(message: pb.ChatMessage) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role} if message.HasField("role") else {}
    content = message.WhichOneof("content")
    if content == "text":
        said["content"] = message.text
    elif content == "parts":
        said["content"] = [_part(part) for part in message.parts.parts]
    return said


def _part(part: pb.TextPart) -> dict[str, str]:
    return {"type": "text", "text": part.text} if part.HasField("text") else {"type": "text"}


def _response_format(message: pb.ResponseFormat) -> dict[str, Any]:
    kind = message.WhichOneof("format")
    if kind is None:
        return {}
    if kind == "json_schema":
        return {"type": kind, "json_schema": _json_schema(message.json_schema)}
    if kind == "regex" and message.regex.HasField("pattern"):
        return {"type": kind, "pattern": message.regex.pattern}
    return {"type": kind}


def _json_schema(message: pb.ResponseFormat.JsonSchema) -> dict[str, Any]:
    said: dict[str, Any] = {"name": message.name} if message.HasField("name") else {}
    if message.HasField("schema"):
        try:
            said["schema"] = from_json(message.schema, allow_inf_nan=False)
        except ValueError:
            raise InvalidRequest(f"{_SCHEMA} is not valid JSON.", param=_SCHEMA) from None
    return said


# Frames.


def to_message(frame: Frame) -> pb.Frame:
    """`frame` as the message that is sent."""
    if isinstance(frame, Delta):
        return pb.Frame(cursor=frame.cursor, delta=_delta(frame))
    if isinstance(frame, Start):
        start = pb.Start(
            stream=frame.stream,
            model=frame.model,
            created=frame.created,
            seed=frame.seed,
            prompt_tokens=frame.prompt_tokens,
        )
        return pb.Frame(cursor=frame.cursor, start=start)
    if isinstance(frame, End):
        return pb.Frame(cursor=frame.cursor, end=_end(frame))
    return pb.Frame(cursor=frame.cursor, error=pb.Error(error=_error(frame.error)))


def _delta(frame: Delta) -> pb.Delta:
    delta = pb.Delta(index=frame.index, text=frame.text, tokens=frame.tokens)
    if frame.token_ids is not None:
        delta.token_ids.extend(frame.token_ids)
    if frame.logprobs is not None:
        delta.logprobs.extend(_logprob(logprob) for logprob in frame.logprobs)
    return delta


def _logprob(logprob: Logprob) -> pb.Logprob:
    return pb.Logprob(
        token=logprob.token,
        logprob=logprob.logprob,
        token_bytes=None if logprob.bytes is None else bytes(logprob.bytes),
        top_logprobs=[
            pb.TopLogprob(
                token=top.token,
                logprob=top.logprob,
                token_bytes=None if top.bytes is None else bytes(top.bytes),
            )
            for top in logprob.top_logprobs
        ],
    )


def _end(frame: End) -> pb.End:
    timings = frame.timings
    return pb.End(
        choices=[_choice_end(choice) for choice in frame.choices],
        usage=_usage(frame.usage),
        timings=pb.Timings(
            queue_ms=timings.queue_ms,
            ttft_ms=timings.ttft_ms,
            total_ms=timings.total_ms,
            tokens_per_s=timings.tokens_per_s,
        ),
        text_sha256=frame.text_sha256,
    )


def _choice_end(choice: ChoiceEnd) -> pb.ChoiceEnd:
    end = pb.ChoiceEnd(index=choice.index, finish_reason=_FINISH_REASONS[choice.finish_reason])
    if isinstance(choice.stop_reason, str):
        end.stop_string = choice.stop_reason
    elif choice.stop_reason is not None:
        end.stop_token_id = choice.stop_reason
    return end


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cached_tokens=usage.cached_tokens,
    )


def _error(detail: ErrorDetail) -> pb.ErrorDetail:
    return pb.ErrorDetail(
        code=detail.code, message=detail.message, type=detail.type, retryable=detail.retryable
    )


def to_cancel_reply(status: StreamStatus) -> pb.CancelReply:
    """What `Cancel` answers."""
    return pb.CancelReply(
        stream=status.stream,
        model=status.model,
        created=status.created,
        state=status.state,
        cursor=status.cursor,
        usage=_usage(status.usage),
        expires_at=status.expires_at,
        choices=[_choice_end(choice) for choice in status.choices or ()],
        error=None if status.error is None else _error(status.error),
    )


# And back, for clients.


def to_frame(message: pb.Frame) -> Frame:
    """The frame that `message` was made from. Raises `ValueError` for one that this version does not know."""
    kind = message.WhichOneof("frame")
    if kind == "delta":
        return _to_delta(message.cursor, message.delta)
    if kind == "start":
        start = message.start
        return Start(
            message.cursor, start.stream, start.model, start.created, start.seed, start.prompt_tokens
        )
    if kind == "end":
        return _to_end(message.cursor, message.end)
    if kind == "error":
        error = message.error.error
        return Error(message.cursor, ErrorDetail(error.code, error.message, error.type, error.retryable))
    raise ValueError("the kind of this frame is not known")


def _to_delta(cursor: str, delta: pb.Delta) -> Delta:
    return Delta(
        cursor,
        delta.index,
        delta.text,
        delta.tokens,
        list(delta.token_ids) or None,
        [_to_logprob(logprob) for logprob in delta.logprobs] or None,
    )


def _to_logprob(logprob: pb.Logprob) -> Logprob:
    tops = [TopLogprob(top.token, top.logprob, _to_bytes(top)) for top in logprob.top_logprobs]
    return Logprob(logprob.token, logprob.logprob, _to_bytes(logprob), tops)


def _to_bytes(logprob: pb.Logprob | pb.TopLogprob) -> list[int] | None:
    return list(logprob.token_bytes) if logprob.HasField("token_bytes") else None


def _to_end(cursor: str, end: pb.End) -> End:
    usage, timings = end.usage, end.timings
    return End(
        cursor,
        [_to_choice_end(choice) for choice in end.choices],
        Usage(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.cached_tokens),
        Timings(
            timings.queue_ms,
            timings.ttft_ms if timings.HasField("ttft_ms") else None,
            timings.total_ms,
            timings.tokens_per_s,
        ),
        list(end.text_sha256),
    )


def _to_choice_end(choice: pb.ChoiceEnd) -> ChoiceEnd:
    kind: Literal["stop_string", "stop_token_id"] | None = choice.WhichOneof("stop_reason")
    reason = None if kind is None else getattr(choice, kind)
    return ChoiceEnd(choice.index, _FINISH_REASON_NAMES[choice.finish_reason], reason)
