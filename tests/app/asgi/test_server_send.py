"""Finding uvicorn's own way of writing under wrappers, and leaving everything else alone."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from starlette.types import Message, Send

from app.asgi.server_send import SEND_BUFFER_BYTES, bound_send_buffer, chunked_body, innermost_send


class Flow:
    write_paused = False


class Transport:
    def __init__(self, connection: socket.socket | None = None) -> None:
        self.connection = connection
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_extra_info(self, name: str) -> socket.socket | None:
        assert name == "socket"
        return self.connection


class RequestResponseCycle:
    """Named like uvicorn's, with what is looked at in it, as it is after the head of a chunked response."""

    def __init__(self, method: str = "POST") -> None:
        self.scope = {"type": "http", "method": method}
        self.flow: Any = Flow()
        self.transport = Transport()
        self.disconnected = self.response_complete = False
        self.chunked_encoding: bool | None = True

    async def send(self, message: Message) -> None: ...


class Queue:
    async def send(self, message: Message) -> None: ...


def wrapped(send: Send) -> Send:
    async def wrapper(message: Message) -> None:
        await send(message)

    return wrapper


def test_wrappers_are_taken_off() -> None:
    cycle = RequestResponseCycle()
    assert innermost_send(wrapped(wrapped(cycle.send))) == cycle.send
    assert innermost_send(cycle.send) == cycle.send


def test_other_servers_keep_their_wrappers() -> None:
    send = wrapped(wrapped(Queue().send))
    assert innermost_send(send) is send
    deep: Send = RequestResponseCycle().send
    for _ in range(20):
        deep = wrapped(deep)
    assert innermost_send(deep) is deep


def test_a_chunk_goes_to_the_transport_as_uvicorn_writes_it() -> None:
    cycle = RequestResponseCycle()
    body = chunked_body(wrapped(cycle.send))
    assert body is not None
    assert body.write(b"data: \xe2\x82\xac\n\n") and body.write(b"x" * 300)
    assert cycle.transport.written == [b"b\r\ndata: \xe2\x82\xac\n\n\r\n", b"12c\r\n" + b"x" * 300 + b"\r\n"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chunked_encoding", None),  # before the head
        ("chunked_encoding", False),  # a body with a length
        ("disconnected", True),
        ("response_complete", True),
    ],
)
def test_what_is_no_chunk_is_left_to_send(name: str, value: object) -> None:
    cycle = RequestResponseCycle()
    setattr(cycle, name, value)
    body = chunked_body(cycle.send)
    assert body is not None and not body.write(b"x")
    assert cycle.transport.written == []


def test_a_full_socket_is_left_to_send() -> None:
    cycle = RequestResponseCycle()
    body = chunked_body(cycle.send)
    cycle.flow.write_paused = True
    assert body is not None and not body.write(b"x")
    cycle.flow.write_paused = False
    assert body.write(b"x")
    assert cycle.transport.written == [b"1\r\nx\r\n"]


def test_servers_that_are_not_known_write_themselves() -> None:
    assert chunked_body(wrapped(Queue().send)) is None
    assert chunked_body(RequestResponseCycle("HEAD").send) is None
    other_version = RequestResponseCycle()
    del other_version.chunked_encoding
    assert chunked_body(other_version.send) is None
    other_version = RequestResponseCycle()
    other_version.flow = object()
    assert chunked_body(other_version.send) is None


def test_the_kernel_holds_little_for_a_reader_that_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
        bound_send_buffer(Transport(ours))
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == SEND_BUFFER_BYTES
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5_000)
        bound_send_buffer(Transport(ours))
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 10_000
    bound_send_buffer(Transport(ours))  # closed
    bound_send_buffer(Transport(None))
