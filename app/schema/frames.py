"""The frames of a stream. They are part of the public package: what the server writes is what a client reads."""

from __future__ import annotations

from app.errors import ServiceError
from streaming_inference.frames import (
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

__all__ = [
    "ChoiceEnd",
    "Delta",
    "End",
    "Error",
    "ErrorDetail",
    "FinishReason",
    "Frame",
    "Logprob",
    "Message",
    "Start",
    "Timings",
    "ToolCall",
    "ToolCallPiece",
    "TopLogprob",
    "Usage",
    "error_frame",
]


def error_frame(cursor: str, error: ServiceError) -> Error:
    """The terminal frame of a stream that `error` ends at `cursor`."""
    return Error(cursor, ErrorDetail(error.code, error.message, error.type, error.retryable))
