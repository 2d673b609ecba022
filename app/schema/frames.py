"""The frames of a stream: one closed union, the same for every protocol.

A cursor is the number of tokens up to the end of a frame; with several choices, their counts joined by dots. Each wire format is
an encoder of these at the edge.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from app.errors import ServiceError

FinishReason = Literal["stop", "length", "content_filter", "cancelled"]


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None


class Logprob(msgspec.Struct, frozen=True):
    """One token as text with its log probability and the likeliest alternatives, in the shape of the OpenAI API."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0


class Timings(msgspec.Struct, frozen=True):
    """Milliseconds since the request was accepted for work; `ttft_ms` is None when no token came."""

    queue_ms: float
    ttft_ms: float | None
    total_ms: float
    tokens_per_s: float


class ChoiceEnd(msgspec.Struct, frozen=True):
    index: int
    finish_reason: FinishReason
    stop_reason: str | int | None


class ErrorDetail(msgspec.Struct, frozen=True):
    code: str
    message: str
    type: str
    retryable: bool


class Start(msgspec.Struct, frozen=True, tag_field="type", tag="start"):
    cursor: str
    stream: str
    model: str
    created: int
    seed: int
    prompt_tokens: int


class Delta(msgspec.Struct, frozen=True, tag_field="type", tag="delta", omit_defaults=True):
    """Text that choice `index` gained with its last `tokens` tokens. The text may be empty; the tokens never are.

    `steered`: the tokens come from a client's `steer`, not from the model. Text that was held back before may stand in front.
    """

    cursor: str
    index: int
    text: str
    tokens: int
    token_ids: list[int] | None = None
    logprobs: list[Logprob] | None = None
    steered: bool = False


class End(msgspec.Struct, frozen=True, tag_field="type", tag="end"):
    cursor: str
    choices: list[ChoiceEnd]
    usage: Usage
    timings: Timings
    text_sha256: list[str]


class Error(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    cursor: str
    error: ErrorDetail


Frame = Start | Delta | End | Error


def error_frame(cursor: str, error: ServiceError) -> Error:
    """The terminal frame of a stream that `error` ends at `cursor`."""
    return Error(cursor, ErrorDetail(error.code, error.message, error.type, error.retryable))
