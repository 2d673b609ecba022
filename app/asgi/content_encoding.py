"""`Content-Encoding` of requests: bodies that come packed, unpacked as they come and never further than they are read."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from backports import zstd

from app.errors import InvalidRequest, UnsupportedEncoding

CONTENT_ENCODING = "content-encoding"
PIECE_BYTES = 262_144
"""What is unpacked in one go, so that a small body that becomes a large one is noticed and the event loop not held up."""
# What RFC 9659 allows on the web: 8 MiB. A frame may ask for gigabytes of memory otherwise.
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
_ZLIB, _GZIP, _RAW_DEFLATE = zlib.MAX_WBITS, zlib.MAX_WBITS | 16, -zlib.MAX_WBITS
_HEADER_BYTES = 2


class Unpacker(Protocol):
    """Unpacks one body. After the last of its parts `complete` says whether it was whole."""

    @property
    def complete(self) -> bool: ...

    def unpack(self, part: bytes) -> Iterator[bytes]:
        """What `part`, the next one, adds to the body, in pieces of `PIECE_BYTES` at most. Raises `InvalidRequest`."""
        ...


class Plain:
    """A body that is not packed."""

    complete = True

    def unpack(self, part: bytes) -> Iterator[bytes]:
        yield part


class Inflate:
    """gzip of one member, or deflate, which some clients send without the header of zlib that belongs to it."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._start = b""
        self._stream = zlib.decompressobj(_GZIP) if encoding == "gzip" else None

    @property
    def complete(self) -> bool:
        return self._stream is not None and self._stream.eof

    def unpack(self, part: bytes) -> Iterator[bytes]:
        if self._stream is None:
            part = self._start = self._start + part
            if len(part) < _HEADER_BYTES:
                return
            has_header = part[0] & 0x0F == zlib.DEFLATED and int.from_bytes(part[:2], "big") % 31 == 0
            self._stream = zlib.decompressobj(_ZLIB if has_header else _RAW_DEFLATE)
        stream, is_full = self._stream, False
        while part or (is_full and not stream.eof):
            if stream.eof:
                raise _not_valid(self._encoding)
            try:
                piece = stream.decompress(part, PIECE_BYTES)
            except zlib.error:
                raise _not_valid(self._encoding) from None
            is_full = len(piece) == PIECE_BYTES
            part = stream.unused_data if stream.eof else stream.unconsumed_tail
            yield piece


class Zstandard:
    """zstd of one frame."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._stream = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)

    @property
    def complete(self) -> bool:
        return self._stream.eof

    def unpack(self, part: bytes) -> Iterator[bytes]:
        stream = self._stream
        while part or not (stream.eof or stream.needs_input):
            if stream.eof:
                raise _not_valid(self._encoding)
            try:
                piece = stream.decompress(part, PIECE_BYTES)
            except zstd.ZstdError:
                raise _not_valid(self._encoding) from None
            part = stream.unused_data if stream.eof else b""
            yield piece


_UNPACKERS: dict[str, Callable[[str], Unpacker]] = {"gzip": Inflate, "deflate": Inflate, "zstd": Zstandard}
ACCEPTED = ", ".join(_UNPACKERS)
"""The encodings that are taken, as `Accept-Encoding` names them."""


def unpacker_of(content_encoding: str) -> Unpacker:
    """What unpacks a body with this `Content-Encoding`. Raises `UnsupportedEncoding`, also for a body that is packed twice."""
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return Plain()
    if encoding == "x-gzip":  # the older name
        encoding = "gzip"
    if encoding not in _UNPACKERS:
        raise UnsupportedEncoding(
            f"Send the body with one of the encodings {ACCEPTED}, or without.", param=CONTENT_ENCODING
        )
    return _UNPACKERS[encoding](encoding)


def _not_valid(encoding: str) -> InvalidRequest:
    return InvalidRequest(f"The body is not valid {encoding}.", param=CONTENT_ENCODING)
