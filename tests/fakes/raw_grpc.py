"""A gRPC client that sends any bytes as metadata; gRPC's own refuses what it must not send."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM = ACK = 1
END_HEADERS = 4


@dataclass
class Answer:
    """`body`: the messages with their prefixes. `headers`: those of all blocks, encoded as they came."""

    body: bytes = b""
    headers: bytes = b""

    @property
    def messages(self) -> list[bytes]:
        found, at = [], 0
        while at < len(self.body):
            end = at + 5 + int.from_bytes(self.body[at + 1 : at + 5], "big")
            found.append(self.body[at + 5 : end])
            at = end
        return found

    @property
    def status(self) -> int:
        """The number after `grpc-status`. HAProxy and gRPC send it as plain text when it is the first of a connection."""
        name = b"\x0bgrpc-status"
        at = self.headers.index(name) + len(name)
        return int(self.headers[at + 1 : at + 1 + self.headers[at]])


def call(
    address: str, method: str, message: bytes, metadata: list[tuple[bytes, bytes]], timeout_s: float = 30
) -> Answer:
    """Makes a call with one message. Raises `ConnectionError` if it is answered by no status, and `TimeoutError`."""
    host, port = address.rsplit(":", 1)
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.encode()),
        (b":authority", address.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *metadata,
    ]
    block = b"".join(b"\x10" + _text(name) + _text(value) for name, value in fields)
    body = struct.pack(">BI", 0, len(message)) + message
    answer = Answer()
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        head, rest = _frame(HEADERS, END_HEADERS, 1, block), _frame(DATA, END_STREAM, 1, body)
        connection.sendall(PREFACE + _frame(SETTINGS, 0, 0, b"") + head + rest)
        with connection.makefile("rb") as received:
            while True:
                start = received.read(9)
                if len(start) < 9:
                    raise ConnectionError(f"the connection ended: {answer}")
                kind, flags = start[3], start[4]
                payload = received.read(int.from_bytes(start[:3], "big"))
                if kind in (RST_STREAM, GOAWAY):
                    raise ConnectionError(f"the call was broken: {payload!r} {answer}")
                if kind in (SETTINGS, PING) and not flags & ACK:
                    connection.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))
                answer.body += payload if kind == DATA else b""
                answer.headers += payload if kind == HEADERS else b""
                if kind in (DATA, HEADERS) and flags & END_STREAM:
                    return answer


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _text(text: bytes) -> bytes:
    """`text` with its length in front, as HPACK has it."""
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    low, high = (length - 127) & 127, (length - 127) >> 7
    assert high < 128
    return bytes([127, low | 128, high]) + text
