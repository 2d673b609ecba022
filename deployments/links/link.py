"""A link: one connection between two of our own processes, on which calls that need nothing of Serve's travel.

Serve finds the processes and tells where they listen. A call through Serve takes about a millisecond of processor time on
each side, a call on a link 5 to 40 microseconds. A call has one answer, or many that come one by one: then it is a feed. What
travels is frames: a header of fixed length, then bytes that the link does not look into. What is sent within one turn of the
event loop goes out in one write.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import Protocol

import msgspec

MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_HELLO_BYTES = 256

# Frames of the caller. A connection begins with a `HELLO`, which carries the secret.
HELLO, CALL, FOLLOW, CANCEL = 1, 2, 3, 4
# Frames of the process that is called. It answers a `HELLO` with `WELCOME`, and a call with one of the last three, before which
# a `FOLLOW` gets any number of `ITEM`s.
WELCOME, ITEM, ANSWER, BUSY, FAILED = 5, 6, 7, 8, 9

_HEADER = struct.Struct(">IBQ")
"""Length of what follows, kind, number of the call."""

Frame = tuple[int, int, bytes]
"""Kind, number of the call, content."""


class LinkAddress(msgspec.Struct, frozen=True, array_like=True):
    """Where a process listens, and the secret that it wants to hear. Goes through Serve only."""

    host: str
    port: int
    secret: bytes


class Link(Protocol):
    """What a caller needs of a link."""

    async def call(self, request: bytes, timeout_s: float) -> bytes:
        """The answer. Cancelling it cancels the call on the other side.

        Raises `LinkBroken`, `LinkBusy`, `LinkFailed` and `TimeoutError`; `ValueError` for a request that is too long.
        """
        ...


class LinkBroken(ConnectionError):
    """The connection is gone, or the other side does not keep to the protocol. Whether the call was done is unknown."""


class LinkBusy(Exception):
    """The call was not made: too many others are under way."""


class LinkFailed(Exception):
    """The call raised something unexpected on the other side, which has logged it."""


encode_address = msgspec.msgpack.Encoder().encode
decode_address = msgspec.msgpack.Decoder(LinkAddress).decode


class FrameReader:
    """Cuts what arrives into frames. No frame may be longer than `limit_bytes`, which can be changed between two frames."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. To be used up before the next call. Raises `LinkBroken` for one that is too long."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, kind, number = _HEADER.unpack_from(buffer, start)
            if length > self.limit_bytes:
                raise LinkBroken(f"a frame of {length} bytes")
            content = start + _HEADER.size
            if len(buffer) < content + length:
                break
            start = content + length
            yield kind, number, bytes(buffer[content:start])
        del buffer[:start]


class FrameWriter:
    """Sends frames. Those of one turn of the event loop go out together."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []

    def send(self, kind: int, number: int, content: bytes = b"") -> None:
        """Returns at once. Harmless when the connection is gone."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts += (_HEADER.pack(len(content), kind, number), content)

    def _flush(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()
