"""Frames as a client of the gRPC service gets them: the way back from protocol buffers."""

from __future__ import annotations

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
    Message,
    Start,
    Timings,
    ToolCall,
    ToolCallPiece,
    TopLogprob,
    Usage,
)

_FINISH_REASONS: dict[int, FinishReason] = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_CONTENT_FILTER: "content_filter",
    pb.FINISH_REASON_CANCELLED: "cancelled",
}


def to_frame(message: pb.Frame) -> Frame:
    """The frame that `message` was made from. Raises `ValueError` for one that is none of a stream."""
    kind = message.WhichOneof("frame")
    if kind == "delta":
        return _to_delta(message.cursor, message.delta)
    if kind == "start":
        start = message.start
        return Start(
            message.cursor,
            start.stream,
            start.model,
            start.created,
            start.seed,
            start.prompt_tokens,
            start.deterministic,
        )
    if kind == "end":
        return _to_end(message.cursor, message.end)
    if kind == "error":
        error = message.error.error
        return Error(message.cursor, ErrorDetail(error.code, error.message, error.type, error.retryable))
    raise ValueError("this is no frame of a stream")


def _to_delta(cursor: str, delta: pb.Delta) -> Delta:
    return Delta(
        cursor,
        delta.index,
        delta.text,
        delta.tokens,
        list(delta.token_ids) or None,
        [_to_logprob(logprob) for logprob in delta.logprobs] or None,
        delta.steered,
        delta.reasoning,
        _to_piece(delta.tool_call) if delta.HasField("tool_call") else None,
    )


def _to_piece(piece: pb.ToolCallPiece) -> ToolCallPiece:
    return ToolCallPiece(piece.index, piece.id, piece.name, piece.arguments)


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
        Usage(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens,
        ),
        Timings(
            timings.queue_ms,
            timings.ttft_ms if timings.HasField("ttft_ms") else None,
            timings.total_ms,
            timings.tokens_per_s,
        ),
        list(end.text_sha256),
    )


def _to_choice_end(choice: pb.ChoiceEnd) -> ChoiceEnd:
    kind = choice.WhichOneof("stop_reason")
    reason = choice.stop_string if kind == "stop_string" else choice.stop_token_id
    message = _to_answer(choice.message) if choice.HasField("message") else None
    return ChoiceEnd(choice.index, _FINISH_REASONS[choice.finish_reason], reason if kind else None, message)


def _to_answer(message: pb.AnswerMessage) -> Message:
    calls = [ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls]
    return Message(message.content, message.reasoning, calls)
