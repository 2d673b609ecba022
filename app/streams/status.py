"""What is known of a stream without reading it."""

from __future__ import annotations

import math

from app.streams.stream import Stream
from streaming_inference.frames import End
from streaming_inference.status import StreamStatus

__all__ = ["StreamStatus", "status_of"]


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
