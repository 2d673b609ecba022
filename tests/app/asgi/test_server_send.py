"""Finding uvicorn's own `send` under wrappers, and leaving everything else alone."""

from __future__ import annotations

from starlette.types import Message, Send

from app.asgi.server_send import innermost_send


class RequestResponseCycle:
    """Named like uvicorn's."""

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
