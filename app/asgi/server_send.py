"""The server's own `send` under the wrappers that a framework puts around it.

Ray Serve passes every ASGI message through closures that look at the head of a response and at its end only. For the
thousands of writes between the two they cost as much Python as making the frame does. Where uvicorn is found at the bottom,
those writes go to it directly; any other `send` is left alone.
"""

from __future__ import annotations

import inspect

from starlette.types import Send

_MAX_WRAPPERS = 8
# The classes of uvicorn that answer a request, or talk to a WebSocket.
_UVICORN = frozenset({"RequestResponseCycle", "WebSocketsSansIOProtocol"})


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
