"""What travels on a link: packets, each a header of 13 bytes and a content of up to 64 MiB."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

from deployments.links.link import LinkBroken

MAX_PACKET_BYTES = 64 * 1024 * 1024
"""Of the content."""
MAX_HELLO_BYTES = 256

# Kinds that the caller sends. A connection begins with HELLO, which carries the secret.
HELLO, CALL, STREAMING_CALL, CANCEL = 1, 2, 3, 4
# Kinds that the called process sends: WELCOME after HELLO, and one of ANSWER, BUSY and FAILED for each call. A streaming call
# gets its ITEMs before that, and its ANSWER has no content.
WELCOME, ITEM, ANSWER, BUSY, FAILED = 5, 6, 7, 8, 9

_HEADER = struct.Struct(">IBQ")

Packet = tuple[int, int, bytes]
"""Kind, number of the call, content. The header has the length of the content, the kind and the number."""


class PacketReader:
    """Cuts received bytes into packets with contents of at most `limit_bytes`, which may change between two packets."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that `data` completes. Exhaust it before the next call. Raises `LinkBroken` if one is too long."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, kind, number = _HEADER.unpack_from(buffer, start)
            if length > self.limit_bytes:
                raise LinkBroken(f"A packet has {length} bytes; at most {self.limit_bytes} are allowed.")
            content = start + _HEADER.size
            if len(buffer) < content + length:
                break
            start = content + length
            yield kind, number, bytes(buffer[content:start])
        del buffer[:start]


class PacketWriter:
    """Sends packets. All packets of one turn of the event loop leave in one write."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []

    def send(self, kind: int, number: int, content: bytes = b"") -> None:
        """Returns at once. Does nothing when the connection is gone."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts += (_HEADER.pack(len(content), kind, number), content)

    def _flush(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()
