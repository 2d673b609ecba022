"""A whole stream as one JSON: the answer to `POST /v1/streams` with `stream: false`."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from msgspec import Meta

from app.schema.frames import FinishReason, Logprob, Message, Timings, Usage


class ChoiceResult(TypedDict):
    index: int
    text: str
    finish_reason: FinishReason
    stop_reason: str | int | None
    token_ids: NotRequired[list[int]]
    logprobs: NotRequired[list[Logprob]]
    message: NotRequired[Message]


class StreamResult(TypedDict):
    """A whole stream: what its frames add up to."""

    stream: str
    model: str
    created: Annotated[int, Meta(description="Unix seconds.")]
    seed: int
    deterministic: Annotated[
        bool, Meta(description="Whether the seed gives this text again, whatever else is computed.")
    ]
    choices: list[ChoiceResult]
    usage: Usage
    timings: Timings
    text_sha256: list[str]
    cursor: str


class DetachedStream(TypedDict):
    """The answer to `detach: true`: the id of the stream."""

    stream: str
