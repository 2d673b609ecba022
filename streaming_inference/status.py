"""The status of a stream, which a client can ask for without reading the stream."""

from __future__ import annotations

from typing import Literal

import msgspec

from streaming_inference.frames import ChoiceEnd, ErrorDetail, Usage


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
