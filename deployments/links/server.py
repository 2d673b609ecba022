"""The called end of the links of one process: listens, lets in who knows the secret, and does the calls.

A call is cancelled when its caller says so, and when the connection breaks on which it came.
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

import ray

from deployments.links.link import (
    ANSWER,
    BUSY,
    CALL,
    CANCEL,
    FAILED,
    FOLLOW,
    HELLO,
    ITEM,
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    WELCOME,
    FrameReader,
    FrameWriter,
    LinkAddress,
    LinkBroken,
    encode_address,
)

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
HELLO_TIMEOUT_S = 5.0
UNREAD_TIMEOUT_S = 30.0
"""How long the other side may leave unacknowledged what it is sent: then its machine is gone, and the kernel breaks the link."""
MAX_STRANGERS = 64
"""Connections that have not said the secret yet."""

Handler = Callable[[bytes], Awaitable[bytes]]
Feeder = Callable[[bytes], AsyncGenerator[bytes, None]]


class LinkServer:
    """Does calls with `handler` and feeds with `feeder`, at most `max_calls` at a time. Lives on one event loop; to be closed."""

    def __init__(self, handler: Handler, *, max_calls: int, feeder: Feeder | None = None) -> None:
        self.handler = handler
        self.feeder = feeder
        self.max_calls = max_calls
        self.calls = 0
        self.connections: set[_Connection] = set()
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._listening: asyncio.Task[asyncio.Server] | None = None

    async def listen(self, host: str) -> LinkAddress:
        """Where this process can be called. The first call makes it listen on some port of `host`; raises `OSError`."""
        if self._listening is None or (self._listening.done() and self._listening.exception()):
            loop = asyncio.get_running_loop()
            opening = loop.create_server(lambda: _Connection(self), host, 0)
            self._listening = loop.create_task(opening, context=contextvars.Context())
        server = await asyncio.shield(self._listening)
        return LinkAddress(host, server.sockets[0].getsockname()[1], self._secret)

    async def address(self) -> bytes:
        """The encoded `LinkAddress` on this node's own address, where every node of the cluster reaches it. See `listen`."""
        return encode_address(await self.listen(ray.util.get_node_ip_address()))

    async def close(self) -> None:
        """Stops listening and breaks the connections, which cancels the calls on them. Idempotent."""
        if self._listening is not None:
            (await self._listening).close()
        for connection in list(self.connections):
            connection.abort()

    def welcomes(self, secret: bytes) -> bool:
        return hmac.compare_digest(secret, self._secret)

    @property
    def strangers(self) -> int:
        return sum(not connection.trusted for connection in self.connections)


class _Connection(asyncio.Protocol):
    """One caller. Nobody is answered who has not said the secret first."""

    def __init__(self, server: LinkServer) -> None:
        self.trusted = False
        self._server = server
        self._frames = FrameReader(MAX_HELLO_BYTES)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._writer = FrameWriter(self._transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * UNREAD_TIMEOUT_S))
        self._deadline = self._loop.call_later(HELLO_TIMEOUT_S, self.abort)
        if self._server.strangers >= MAX_STRANGERS:
            self.abort()
        self._server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._deadline.cancel()
        self._server.connections.discard(self)
        for task in self._tasks.values():
            task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, number, content in self._frames.feed(data):
                self._receive(kind, number, content)
        except LinkBroken as error:
            logger.warning("A link is closed: %s", error)
            self.abort()

    def pause_writing(self) -> None:
        """Who does not take answers may not ask on, and is fed no more."""
        self._has_room.clear()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._has_room.set()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        self._transport.abort()

    def _receive(self, kind: int, number: int, content: bytes) -> None:
        if not self.trusted:
            self._introduce(kind, content)
        elif kind == CALL or (kind == FOLLOW and self._server.feeder is not None):
            self._begin(kind, number, content)
        elif kind == CANCEL:
            if number in self._tasks:
                self._tasks[number].cancel()
        else:
            raise LinkBroken(f"an unexpected frame of kind {kind}")

    def _introduce(self, kind: int, secret: bytes) -> None:
        if kind != HELLO or not self._server.welcomes(secret):
            raise LinkBroken("somebody does not know the secret")
        self.trusted = True
        self._deadline.cancel()
        self._frames.limit_bytes = MAX_FRAME_BYTES
        self._writer.send(WELCOME, 0)

    def _begin(self, kind: int, number: int, request: bytes) -> None:
        if self._server.calls >= self._server.max_calls:
            self._writer.send(BUSY, number)
            return
        if number in self._tasks:
            raise LinkBroken(f"two calls have the number {number}")
        self._server.calls += 1
        work = self._do(number, request) if kind == CALL else self._feed(number, request)
        task = self._loop.create_task(work, context=contextvars.Context())
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._ended(number))

    async def _do(self, number: int, request: bytes) -> None:
        """Does one call and answers it. What was cancelled is answered by `_ended`."""
        try:
            answer = _fitting(await self._server.handler(request))
        except Exception:
            logger.exception("A call on a link failed")
            self._writer.send(FAILED, number)
        else:
            self._writer.send(ANSWER, number, answer)

    async def _feed(self, number: int, request: bytes) -> None:
        """Sends what comes for one feed, no faster than it is taken."""
        assert self._server.feeder is not None
        try:
            async with aclosing(self._server.feeder(request)) as items:
                async for item in items:
                    self._writer.send(ITEM, number, _fitting(item))
                    if not self._has_room.is_set():
                        await self._has_room.wait()
        except Exception:
            logger.exception("A feed on a link failed")
            self._writer.send(FAILED, number)
        else:
            self._writer.send(ANSWER, number)

    def _ended(self, number: int) -> None:
        self._server.calls -= 1
        if self._tasks.pop(number).cancelled():
            self._writer.send(FAILED, number)  # the caller may not have been the one who cancelled it


def _fitting(answer: bytes) -> bytes:
    """What can be sent. Raises `ValueError` for an answer that is too long."""
    if len(answer) > MAX_FRAME_BYTES:
        raise ValueError(f"an answer of {len(answer)} bytes")
    return answer
