"""What a client may ask about a stream without reading it."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from app.schema.frames import ChoiceEnd, End, ErrorDetail, Usage
from app.streams.stream import Stream


class StreamStatus(msgspec.Struct, frozen=True):
    """A stream as `GET /v1/streams/{id}` shows it. Times are Unix seconds; `expires_at` is None while the stream runs."""

    stream: str
    model: str
    created: int
    state: Literal["running", "ended", "failed"]
    cursor: str
    usage: Usage
    expires_at: int | None
    choices: list[ChoiceEnd] | None
    error: ErrorDetail | None


def status_of(stream: Stream, expires_s: float | None) -> StreamStatus:
    """The status of a stream; `expires_s` is when the store forgets it, if that is known."""
    ending = stream.ending
    ended = isinstance(ending, End)
    return StreamStatus(
        stream=stream.id,
        model=stream.request.model,
        created=stream.created,
        state="running" if ending is None else "ended" if ended else "failed",
        cursor=stream.cursor,
        usage=stream.usage,
        expires_at=None if ending is None or expires_s is None else math.ceil(expires_s),
        choices=ending.choices if isinstance(ending, End) else None,
        error=None if ending is None or isinstance(ending, End) else ending.error,
    )
