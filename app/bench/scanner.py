"""One HTTP/1.1 response with server-sent events, read from bytes as they come.

`ResponseScanner` takes whatever a read returned, cut anywhere, and gives back the data of every event that is complete.
It does no I/O, keeps no time, and holds no more than one incomplete event and one incomplete line of framing.
"""

from __future__ import annotations

from enum import Enum

from streaming_inference.event_scanner import EventScanner, EventTooLarge

MAX_HEAD_BYTES = 65_536
MAX_LINE_BYTES = 4_096
MAX_ERROR_BYTES = 4_096


class MalformedResponse(ValueError):
    """The bytes are not an HTTP/1.1 response, or a part of it is larger than any server here makes it."""


class _State(Enum):
    HEAD = 0
    SIZE = 1
    PAYLOAD = 2
    PAYLOAD_END = 3
    TRAILER = 4
    PLAIN = 5
    DONE = 6


class ResponseScanner:
    """One response: its status, whether it is complete, and its events.

    `feed` returns the data of the events that the bytes complete. A response with another status than 200 has no events;
    the beginning of its body is in `error_body`. `complete` turns true with the last byte of the body, or in `end_of_input`
    when the body is ended by the close of the connection.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.error_body = b""
        self.complete = False
        self.keep_alive = True
        self._state = _State.HEAD
        self._raw = b""
        self._left_bytes = 0
        self._until_close = False
        self._events = EventScanner()

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are complete now. Raises `MalformedResponse`; the scanner is of no use after that."""
        if self._raw:
            data = self._raw + data
            self._raw = b""
        if self._state is _State.HEAD:
            data = self._read_head(data)
            if self._state is _State.HEAD:
                return []
        body = self._plain_body(data) if self._state is _State.PLAIN else self._chunked_body(data)
        if not body:
            return []
        if self.status != 200:
            self.error_body = (self.error_body + body)[:MAX_ERROR_BYTES]
            return []
        try:
            return self._events.feed(body)
        except EventTooLarge as error:
            raise MalformedResponse(str(error)) from None

    def end_of_input(self) -> bool:
        """The connection was closed. True when that is a proper end of this response."""
        if self._until_close:
            self.complete = True
        return self.complete

    def _read_head(self, data: bytes) -> bytes:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise MalformedResponse(f"the head of the response is larger than {MAX_HEAD_BYTES} bytes")
            self._raw = data
            return b""
        status_line, *lines = data[:end].split(b"\r\n")
        self.status = _status(status_line)
        self.headers = dict(_header(line) for line in lines)
        self._choose_framing(status_line)
        return data[end + 4 :]

    def _choose_framing(self, status_line: bytes) -> None:
        connection = self.headers.get(b"connection", b"").lower()
        self.keep_alive = connection != b"close" and not status_line.startswith(b"HTTP/1.0")
        length = self.headers.get(b"content-length")
        if self.headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            self._state = _State.SIZE
            return
        self._state = _State.PLAIN
        if length is None:
            self._until_close = True
            self.keep_alive = False
        elif not length.isdigit():
            raise MalformedResponse(f"content-length is {length!r}")
        else:
            self._left_bytes = int(length)
            self.complete = self._left_bytes == 0

    def _plain_body(self, data: bytes) -> bytes:
        if self._until_close:
            return data
        if len(data) > self._left_bytes:
            raise MalformedResponse("the body is longer than its content-length")
        self._left_bytes -= len(data)
        self.complete = self._left_bytes == 0
        return data

    def _chunked_body(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        position = 0
        while position < len(data):
            if self._state is _State.PAYLOAD:
                piece = data[position : position + self._left_bytes]
                pieces.append(piece)
                position += len(piece)
                self._left_bytes -= len(piece)
                if self._left_bytes == 0:
                    self._state = _State.PAYLOAD_END
                continue
            if self._state is _State.DONE:
                raise MalformedResponse("bytes follow the last chunk")
            end = data.find(b"\r\n", position)
            if end < 0:
                self._raw = data[position:]
                if len(self._raw) > MAX_LINE_BYTES:
                    raise MalformedResponse(
                        f"a line of the chunked framing is longer than {MAX_LINE_BYTES} bytes"
                    )
                break
            self._framing_line(data[position:end])
            position = end + 2
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def _framing_line(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            self._left_bytes = _chunk_size(line)
            self._state = _State.PAYLOAD if self._left_bytes else _State.TRAILER
        elif self._state is _State.PAYLOAD_END:
            if line:
                raise MalformedResponse("a chunk is longer than its size")
            self._state = _State.SIZE
        elif not line:
            self._state = _State.DONE
            self.complete = True


def _status(line: bytes) -> int:
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise MalformedResponse(f"not a status line: {line[:80]!r}")
    return int(parts[1])


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon:
        raise MalformedResponse(f"not a header: {line[:80]!r}")
    return name.strip().lower(), value.strip()


def _chunk_size(line: bytes) -> int:
    size = line.split(b";", 1)[0].strip()
    if not size or size.strip(b"0123456789abcdefABCDEF"):
        raise MalformedResponse(f"not the size of a chunk: {line[:80]!r}")
    return int(size, 16)
