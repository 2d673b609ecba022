"""The frames of a stream: one closed union, the same for every protocol.

A cursor is the number of tokens up to the end of a frame; with several choices, their counts joined by dots. Each wire
format is an encoder of these at the edge.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "content_filter", "cancelled"]


class TopLogprob(msgspec.Struct, frozen=True):
    """A likely token at one position, with its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class Logprob(msgspec.Struct, frozen=True):
    """One token as text with its log probability and the likeliest alternatives, in the shape of the OpenAI API."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tokens of a request. `cached_tokens` of the prompt needed no prefill; `reasoning_tokens` of the completion are
    reasoning.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = msgspec.field(default_factory=int)  # not `= 0`, which would be left out
    reasoning_tokens: int = 0


class Timings(msgspec.Struct, frozen=True):
    """Milliseconds since the request was accepted for work; `ttft_ms` is None when no token came."""

    queue_ms: float
    ttft_ms: float | None
    total_ms: float
    tokens_per_s: float


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a tool. `arguments` is JSON as the model wrote it; its end is missing if the output was cut."""

    id: str
    name: str
    arguments: str


class ToolCallPiece(msgspec.Struct, frozen=True):
    """What one tool call of a choice gained: `arguments` is a piece of it, the rest is the same in each piece.

    `index` is 0, 1, … in each choice.
    """

    index: int
    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a choice has said, in parts."""

    content: str
    reasoning: str = ""
    tool_calls: list[ToolCall] = []


class ChoiceEnd(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one choice ended. `stop_reason` is the stop string or the stop token that ended it.

    `message`: the whole, of a choice whose output is parsed for reasoning or tool calls.
    """

    index: int
    finish_reason: FinishReason
    stop_reason: str | int | None
    message: Message | None = None


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong, as the error frame and the HTTP errors say it."""

    code: str
    message: str
    type: str
    retryable: bool


class Start(msgspec.Struct, frozen=True, tag_field="type", tag="start"):
    """The first frame: the stream's name, and what it was started with. `created` is Unix seconds.

    `deterministic`: where the stream was started, its seed gives this text again, whatever else is computed there.
    """

    cursor: str
    stream: str
    model: str
    created: int
    seed: int
    prompt_tokens: int
    deterministic: bool = False


class Delta(msgspec.Struct, frozen=True, tag_field="type", tag="delta", omit_defaults=True):
    """Text that choice `index` gained with its last `tokens` tokens. The text may be empty; the tokens never are.

    `steered`: the tokens are not the model's; a client added them. Text that was held back may precede theirs. A delta with
    `reasoning` or a `tool_call` has no text, unless one token has both.
    """

    cursor: str
    index: int
    text: str
    tokens: int
    token_ids: list[int] | None = None
    logprobs: list[Logprob] | None = None
    steered: bool = False
    reasoning: str = ""
    tool_call: ToolCallPiece | None = None


class End(msgspec.Struct, frozen=True, tag_field="type", tag="end"):
    """The last frame of a stream that did not fail. `text_sha256` has the hash of the text of each choice, which is what its
    deltas have as `text`: no reasoning, no tool calls.
    """

    cursor: str
    choices: list[ChoiceEnd]
    usage: Usage
    timings: Timings
    text_sha256: list[str]


class Error(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """The last frame of a stream that failed."""

    cursor: str
    error: ErrorDetail


Frame = Start | Delta | End | Error
