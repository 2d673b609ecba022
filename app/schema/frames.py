"""The frames of a stream. They are part of the public package: what the server writes is what a client reads."""

from streaming_inference.frames import (
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

__all__ = [
    "ChoiceEnd",
    "Delta",
    "End",
    "Error",
    "ErrorDetail",
    "FinishReason",
    "Frame",
    "Logprob",
    "Start",
    "Timings",
    "TopLogprob",
    "Usage",
]
