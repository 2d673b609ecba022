"""The seam between a stream and a response: what turns frames into the bytes of one wire format.

An encoder belongs to one response. It is given the frames in order, as many at a time as are ready, and does no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.schema.frames import Frame


class Encoder(Protocol):
    """Frames in, bytes out. The body ends when the frames do; nothing needs to be flushed."""

    @property
    def media_type(self) -> str:
        """The value of the content-type header."""
        ...

    @property
    def heartbeat(self) -> bytes:
        """What is written after a while of silence, so that no proxy takes the connection for dead."""
        ...

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """The bytes of `frames`, for one write. Empty when the format has nothing to say for them."""
        ...
