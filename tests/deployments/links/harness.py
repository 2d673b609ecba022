"""Processes that can be called, and connections to them on the loopback."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from deployments.links.connection import LinkConnection, connect
from deployments.links.packet import MAX_PACKET_BYTES
from deployments.links.server import LinkServer

HOST = "127.0.0.1"
PATIENCE_S = 20.0


class Callee:
    """A process that can be called. It answers a request reversed, except for some words."""

    def __init__(self, *, max_calls: int = 8) -> None:
        self.server = LinkServer(self.call, max_calls=max_calls)
        self.waiting = 0
        self.cancelled = 0
        self.changed = asyncio.Event()
        self.go_on = asyncio.Event()

    async def call(self, request: bytes) -> bytes:
        if request == b"fail":
            raise RuntimeError("secret text")
        if request == b"huge":
            return bytes(MAX_PACKET_BYTES + 1)
        if request == b"wait":
            await self._wait()
        return request[::-1]

    async def _wait(self) -> None:
        self.waiting += 1
        self.changed.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
            self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when `condition` holds, which is checked whenever a call begins to wait or ends."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def connected(server: LinkServer) -> AsyncIterator[LinkConnection]:
    """An open connection. Server and connection are closed afterwards."""
    async with asyncio.timeout(PATIENCE_S):
        connection = await connect(await server.listen(HOST))
        try:
            yield connection
        finally:
            connection.abort()
            await connection.lost
            await server.close()


def live(test: Callable[[Callee, LinkConnection], Awaitable[None]], *, max_calls: int = 8) -> None:
    """Runs `test` with an open connection."""

    async def main() -> None:
        callee = Callee(max_calls=max_calls)
        async with connected(callee.server) as connection:
            await test(callee, connection)

    asyncio.run(main())


def packet(kind: int, number: int, content: bytes = b"") -> bytes:
    return struct.pack(">IBQ", len(content), kind, number) + content


async def until(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds. What the kernel does to a connection changes it without an event to wait for."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def hung_up(reader: asyncio.StreamReader) -> None:
    """Returns when the other side has closed the connection. It must have sent nothing."""
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)) as raised:
            await reader.readexactly(1)
        assert not getattr(raised.value, "partial", b"")
