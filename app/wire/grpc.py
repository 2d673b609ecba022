"""Frames, requests and errors as protocol buffers and gRPC statuses. No I/O here.

A request becomes the object that a JSON client would have sent, field by field, so that one validator sees both: what is not
set is not in it, and what is set to zero is.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import quote

from google.protobuf.message import Message
from pydantic_core import from_json

from app.errors import InvalidRequest, ServiceError
from app.proto import generation_pb2 as pb
from app.schema.frames import (
    ChoiceEnd,
    Delta,
    End,
    ErrorDetail,
    FinishReason,
    Frame,
    Logprob,
    Start,
    Usage,
)
from app.schema.server_messages import Addressed, ErrorReply, Pong
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
    "parallel_tool_calls",
    "include_reasoning",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "truncate_prompt_tokens",
)
_ON_DISCONNECT: dict[int, str] = {
    pb.ON_DISCONNECT_CANCEL: "cancel",
    pb.ON_DISCONNECT_GRACE: "grace",
    pb.ON_DISCONNECT_CONTINUE: "continue",
}
_TOOL_MODES: dict[int, str] = {
    pb.TOOL_MODE_NONE: "none",
    pb.TOOL_MODE_AUTO: "auto",
    pb.TOOL_MODE_REQUIRED: "required",
}
_FINISH_REASONS: dict[FinishReason, pb.FinishReason] = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "content_filter": pb.FINISH_REASON_CONTENT_FILTER,
    "cancelled": pb.FINISH_REASON_CANCELLED,
}
_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
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


# Requests.


def to_body(request: pb.GenerateRequest) -> dict[str, Any]:
    """The fields of a request as a JSON client would have sent them. Raises `InvalidRequest` for JSON in it that is none."""
    body = _said(request, *_PLAIN_FIELDS) | _input(request)
    if request.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    if request.stop:
        body["stop"] = list(request.stop)
    if request.stop_token_ids:
        body["stop_token_ids"] = list(request.stop_token_ids)
    if request.HasField("response_format"):
        body["response_format"] = _response_format(request.response_format)
    if request.tools:
        body["tools"] = [_tool(tool, place) for place, tool in enumerate(request.tools)]
    if request.HasField("tool_choice"):
        body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.HasField("chat_template_kwargs"):
        body["chat_template_kwargs"] = _json(request.chat_template_kwargs, "chat_template_kwargs")
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
    said = _said(message, "role", "reasoning", "tool_call_id", "name")
    if message.tool_calls:
        said["tool_calls"] = [
            _said(call, "id") | {"function": _said(call, "name", "arguments")} for call in message.tool_calls
        ]
    content = message.WhichOneof("content")
    if content == "text":
        said["content"] = message.text
    elif content == "parts":
        said["content"] = [{"type": "text"} | _said(part, "text") for part in message.parts.parts]
    return said


def _tool(tool: pb.Tool, place: int) -> dict[str, Any]:
    said = _said(tool, "name", "description", "strict")
    if tool.HasField("parameters"):
        said["parameters"] = _json(tool.parameters, f"tools[{place}].function.parameters")
    return {"function": said}


def _tool_choice(choice: pb.ToolChoice) -> object:
    kind = choice.WhichOneof("choice")
    if kind == "function":
        return _named(choice.function)
    if kind == "allowed_tools":
        allowed: dict[str, Any] = {"tools": [_named(name) for name in choice.allowed_tools.names]}
        if choice.allowed_tools.mode != pb.TOOL_MODE_UNSPECIFIED:
            allowed["mode"] = _TOOL_MODES.get(choice.allowed_tools.mode, choice.allowed_tools.mode)
        return {"type": "allowed_tools", "allowed_tools": allowed}
    # A number that this version has no name for is refused like a word that it does not know.
    return _TOOL_MODES.get(choice.mode, choice.mode) if choice.mode else None


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _json(text: str, field: str) -> object:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        raise InvalidRequest(f"{field} is not valid JSON.", param=field) from None


def _response_format(message: pb.ResponseFormat) -> dict[str, Any]:
    kind = message.WhichOneof("format")
    if kind is None:
        return {}
    if kind == "json_schema":
        said = _said(message.json_schema, "name")
        if message.json_schema.HasField("schema"):
            said["schema"] = _json(message.json_schema.schema, _SCHEMA)
        return {"type": kind, "json_schema": said}
    if kind == "regex":
        return {"type": kind} | _said(message.regex, "pattern")
    if kind == "grammar":
        return {"type": kind} | _said(message.grammar, "grammar")
    return {"type": kind}


def to_resume(request: pb.ResumeRequest) -> dict[str, Any]:
    """The fields of a request to read a stream."""
    return _said(request, "stream", "after")


def to_cancel(request: pb.CancelRequest) -> dict[str, Any]:
    """The fields of a request to cancel a stream."""
    return _said(request, "stream")


def to_client_message(message: pb.ClientMessage) -> dict[str, Any]:
    """What a client says in `Converse`, as the client of a WebSocket would. Raises `InvalidRequest` as `to_body` does."""
    said = _said(message, "ref", "window")
    kind = message.WhichOneof("message")
    if kind is None:
        return said
    said["type"] = kind
    if kind == "generate":
        return to_body(message.generate) | said
    said |= _said(getattr(message, kind), *_FIELDS_OF_MESSAGES[kind])
    if kind == "update":
        said["stop"] = list(message.update.stop)
    return said


_FIELDS_OF_MESSAGES: dict[str, tuple[str, ...]] = {
    "resume": ("stream", "after"),
    "cancel": ("stream",),
    "stop": ("stream",),
    "update": ("stream",),
    "steer": ("stream", "text"),
    "ack": ("stream", "cursor"),
    "ping": (),
}


def _said(message: Message, *names: str) -> dict[str, Any]:
    """Those of the fields that are set."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}


# Frames.


def to_message(frame: Frame) -> pb.Frame:
    """`frame` as the message that is sent."""
    if isinstance(frame, Delta):
        delta = pb.Delta(
            index=frame.index,
            text=frame.text,
            tokens=frame.tokens,
            steered=frame.steered,
            reasoning=frame.reasoning,
        )
        if frame.tool_call is not None:
            piece = frame.tool_call
            delta.tool_call.CopyFrom(
                pb.ToolCallPiece(index=piece.index, id=piece.id, name=piece.name, arguments=piece.arguments)
            )
        if frame.token_ids is not None:
            delta.token_ids.extend(frame.token_ids)
        if frame.logprobs is not None:
            delta.logprobs.extend(_logprob(logprob) for logprob in frame.logprobs)
        return pb.Frame(cursor=frame.cursor, delta=delta)
    if isinstance(frame, Start):
        start = pb.Start(
            stream=frame.stream,
            model=frame.model,
            created=frame.created,
            seed=frame.seed,
            prompt_tokens=frame.prompt_tokens,
            deterministic=frame.deterministic,
        )
        return pb.Frame(cursor=frame.cursor, start=start)
    if isinstance(frame, End):
        timings = frame.timings
        end = pb.End(
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
        return pb.Frame(cursor=frame.cursor, end=end)
    return pb.Frame(cursor=frame.cursor, error=pb.Error(error=_error(frame.error)))


def to_addressed_message(addressed: Addressed) -> pb.Frame:
    """What `Converse` sends: a frame or a reply, with the stream that it is of and the message that it answers."""
    frame = addressed.frame
    if isinstance(frame, ErrorReply):
        error = _error(frame.error)
        if frame.error.param is not None:
            error.param = frame.error.param
        message = pb.Frame(refusal=pb.Refusal(error=error))
    elif isinstance(frame, Pong):
        message = pb.Frame(pong=pb.Pong())
    else:
        message = to_message(frame)
    if addressed.stream is not None:
        message.stream = addressed.stream
    if addressed.ref is not None:
        message.ref = addressed.ref
    return message


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


def _choice_end(choice: ChoiceEnd) -> pb.ChoiceEnd:
    end = pb.ChoiceEnd(index=choice.index, finish_reason=_FINISH_REASONS[choice.finish_reason])
    if isinstance(choice.stop_reason, str):
        end.stop_string = choice.stop_reason
    elif choice.stop_reason is not None:
        end.stop_token_id = choice.stop_reason
    if choice.message is not None:
        end.message.content, end.message.reasoning = choice.message.content, choice.message.reasoning
        for call in choice.message.tool_calls:
            end.message.tool_calls.add(id=call.id, name=call.name, arguments=call.arguments)
    return end


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
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
