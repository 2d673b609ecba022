"""The called end of the links of one process: listens, lets in callers who know the secret, and executes their calls.

A call is cancelled when its caller cancels it, and when its connection breaks.
"""

from __future__ import annotations

import asyncio
import contextvars
import hmac
import logging
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import cast

from deployments.links.address import LinkAddress, encode_address
from deployments.links.link import LinkBroken
from deployments.links.packet import (
    ANSWER,
    BUSY,
    CALL,
    CANCEL,
    FAILED,
    HELLO,
    ITEM,
    MAX_HELLO_BYTES,
    MAX_PACKET_BYTES,
    STREAMING_CALL,
    WELCOME,
    PacketReader,
    PacketWriter,
)

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
HELLO_TIMEOUT_S = 5.0
UNACKNOWLEDGED_TIMEOUT_S = 30.0
"""The kernel breaks a connection whose other side acknowledges nothing of what it was sent for so long."""
MAX_UNAUTHENTICATED = 64
"""Connections that have not sent the secret yet."""

Handler = Callable[[bytes], Awaitable[bytes]]
StreamingHandler = Callable[[bytes], AsyncGenerator[bytes, None]]


class LinkServer:
    """Executes calls with `handler` and streaming calls with `streaming_handler`, at most `max_calls` at a time.

    Lives on one event loop. To be closed.
    """

    def __init__(
        self, handler: Handler, *, max_calls: int, streaming_handler: StreamingHandler | None = None
    ) -> None:
        self.handler = handler
        self.streaming_handler = streaming_handler
        self.max_calls = max_calls
        self.calls = 0
        self.connections: set[_Connection] = set()
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._listening: asyncio.Task[asyncio.Server] | None = None

    async def listen(self, host: str) -> LinkAddress:
        """Where this process can be called. The first call makes it listen on a free port of `host`; raises `OSError`."""
        if self._listening is None or (self._listening.done() and self._listening.exception()):
            loop = asyncio.get_running_loop()
            opening = loop.create_server(lambda: _Connection(self), host, 0)
            self._listening = loop.create_task(opening, context=contextvars.Context())
        server = await asyncio.shield(self._listening)
        return LinkAddress(host, server.sockets[0].getsockname()[1], self._secret)

    async def address(self, host: str) -> bytes:
        """The same as bytes. See `listen`."""
        return encode_address(await self.listen(host))

    async def close(self) -> None:
        """Stops listening and breaks the connections, which cancels their calls. Idempotent."""
        if self._listening is not None:
            (await self._listening).close()
        for connection in list(self.connections):
            connection.abort()

    def accepts(self, secret: bytes) -> bool:
        return hmac.compare_digest(secret, self._secret)

    @property
    def unauthenticated(self) -> int:
        """The number of connections that have not sent the secret yet."""
        return sum(not connection.authenticated for connection in self.connections)


class _Connection(asyncio.Protocol):
    """One caller. Until it has sent the secret, it gets no answer."""

    def __init__(self, server: LinkServer) -> None:
        self.authenticated = False
        self._server = server
        self._reader = PacketReader(MAX_HELLO_BYTES)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._writer = PacketWriter(self._transport)
        connection = transport.get_extra_info("socket")
        timeout_ms = int(1000 * UNACKNOWLEDGED_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        self._deadline = self._loop.call_later(HELLO_TIMEOUT_S, self.abort)
        if self._server.unauthenticated >= MAX_UNAUTHENTICATED:
            self.abort()
        self._server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._deadline.cancel()
        self._server.connections.discard(self)
        for task in self._tasks.values():
            task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, number, content in self._reader.feed(data):
                self._receive(kind, number, content)
        except LinkBroken as error:
            logger.warning("A link from %s is closed: %s", self._transport.get_extra_info("peername"), error)
            self.abort()

    def pause_writing(self) -> None:
        """A caller that does not read its answers can't send calls, and its streaming calls stop after their next item."""
        self._writable.clear()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable.set()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        self._transport.abort()

    def _receive(self, kind: int, number: int, content: bytes) -> None:
        if not self.authenticated:
            if kind != HELLO or not self._server.accepts(content):
                raise LinkBroken("The caller did not send the secret of this process first.")
            self.authenticated = True
            self._deadline.cancel()
            self._reader.limit_bytes = MAX_PACKET_BYTES
            self._writer.send(WELCOME, 0)
        elif kind == CALL or (kind == STREAMING_CALL and self._server.streaming_handler is not None):
            self._begin(kind, number, content)
        elif kind == CANCEL:
            if number in self._tasks:
                self._tasks[number].cancel()
        else:
            raise LinkBroken(f"A packet has the kind {kind}, which this process does not take.")

    def _begin(self, kind: int, number: int, request: bytes) -> None:
        if self._server.calls >= self._server.max_calls:
            self._writer.send(BUSY, number)
            return
        if number in self._tasks:
            raise LinkBroken(f"Two open calls have the number {number}.")
        self._server.calls += 1
        work = self._answer(number, request) if kind == CALL else self._stream(number, request)
        task = self._loop.create_task(work, context=contextvars.Context())
        self._tasks[number] = task

        def ended(task: asyncio.Task[None]) -> None:
            self._server.calls -= 1
            del self._tasks[number]
            if task.cancelled():
                self._writer.send(FAILED, number)  # its own process may have cancelled it

        task.add_done_callback(ended)

    async def _answer(self, number: int, request: bytes) -> None:
        """Executes one call and sends its answer. `_begin` answers a cancelled one."""
        try:
            answer = _checked(await self._server.handler(request))
        except Exception:
            logger.exception("A call on a link failed")
            self._writer.send(FAILED, number)
        else:
            self._writer.send(ANSWER, number, answer)

    async def _stream(self, number: int, request: bytes) -> None:
        """Executes one streaming call and sends its items, no faster than the caller reads them."""
        assert self._server.streaming_handler is not None
        try:
            async with aclosing(self._server.streaming_handler(request)) as items:
                async for item in items:
                    self._writer.send(ITEM, number, _checked(item))
                    if not self._writable.is_set():
                        await self._writable.wait()
        except Exception:
            logger.exception("A streaming call on a link failed")
            self._writer.send(FAILED, number)
        else:
            self._writer.send(ANSWER, number)


def _checked(content: bytes) -> bytes:
    """The same. Raises `ValueError` if no packet can hold it."""
    if len(content) > MAX_PACKET_BYTES:
        raise ValueError(f"An answer has {len(content)} bytes; at most {MAX_PACKET_BYTES} are allowed.")
    return content
