"""The server's own way of writing under the wrappers that a framework puts around it.

Ray Serve passes every ASGI message through closures that look at the head of a response and at its end only. For the
thousands of writes between the two they cost as much Python as making the frame does. Where uvicorn is found at the bottom,
those writes go to it directly; any other `send` is left alone. The chunks of a chunked body can even go straight
to its transport, which spares each token a message, a coroutine and half a dozen branches.

uvicorn sends every body of unknown length in chunks, which HTTP/1.0 does not have: see `end_with_connection`.
"""

from __future__ import annotations

import inspect
import socket
from contextlib import suppress
from typing import Any

from starlette.types import Send

SEND_BUFFER_BYTES = 65_536
_MAX_WRAPPERS = 8
# The classes of uvicorn that answer a request, or talk to a WebSocket.
_UVICORN_RESPONSE = "RequestResponseCycle"
_UVICORN = frozenset({_UVICORN_RESPONSE, "WebSocketsSansIOProtocol"})
# What must be known of a response to write to its transport.
_CYCLE = ("chunked_encoding", "disconnected", "flow", "response_complete", "scope", "transport")

# What says how long a response is.
_LENGTH = ("chunked_encoding", "expected_content_length")


def innermost_send(send: Send) -> Send:
    """uvicorn's `send` if `send` ends there, else `send` itself. Order and backpressure are the same."""
    inner: object = send
    for _ in range(_MAX_WRAPPERS):
        if type(getattr(inner, "__self__", None)).__name__ in _UVICORN:
            return inner  # type: ignore[return-value]
        if (
            not inspect.isfunction(inner)
            or "send" not in inner.__code__.co_freevars
            or inner.__closure__ is None
        ):
            return send
        inner = inner.__closure__[inner.__code__.co_freevars.index("send")].cell_contents
    return send


class ChunkedBody:
    """The body of a response that uvicorn sends in chunks, written past `send` while nothing stands against it.

    Bytes, order and backpressure are those of `send`: what this refuses goes there.
    """

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._write = cycle.transport.write

    def write(self, body: bytes) -> bool:
        """Writes one chunk, not an empty one, and returns true; or returns false and has done nothing.

        Refused are bodies that don't travel in chunks, before the head, after the end, and while the socket is full.
        """
        cycle = self._cycle
        if (
            self._flow.write_paused
            or cycle.disconnected
            or cycle.response_complete
            or not cycle.chunked_encoding
        ):
            return False
        self._write(b"%x\r\n%b\r\n" % (len(body), body))
        return True


class _UntilClose(int):
    """For uvicorn, the length of a body that is as long as it becomes: no part is too long, and nothing is missing."""

    __hash__ = int.__hash__

    def __lt__(self, other: object) -> bool:
        return False

    def __sub__(self, other: object) -> _UntilClose:
        return self

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def end_with_connection(send: Send) -> None:
    """Has the body of a response that has not begun end with its connection, not in chunks, if uvicorn's `send` is under `send`.

    For a response without a length to an HTTP/1.0 client, whose connection uvicorn closes after it.
    """
    cycle: Any = getattr(innermost_send(send), "__self__", None)
    if type(cycle).__name__ == _UVICORN_RESPONSE and all(hasattr(cycle, name) for name in _LENGTH):
        cycle.chunked_encoding = False
        cycle.expected_content_length = _UntilClose()


def chunked_body(send: Send) -> ChunkedBody | None:
    """The chunks of the response under `send`, if that is uvicorn's own as it is known here, with httptools."""
    cycle: Any = getattr(innermost_send(send), "__self__", None)
    if type(cycle).__name__ != _UVICORN_RESPONSE or not all(hasattr(cycle, name) for name in _CYCLE):
        return None
    if not hasattr(cycle.flow, "write_paused") or cycle.scope.get("method") == "HEAD":
        return None
    bound_send_buffer(cycle.transport)
    return ChunkedBody(cycle)


def bound_send_buffer(transport: Any) -> None:
    """Lets the kernel hold no more than `SEND_BUFFER_BYTES` of what the other side has not taken, where it can be set.

    The kernel would let it grow to megabytes, which is hours of unread text.
    """
    connection = transport.get_extra_info("socket")
    if connection is None:
        return
    with suppress(OSError):
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > SEND_BUFFER_BYTES:
            # The kernel doubles what it is told.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES // 2)
