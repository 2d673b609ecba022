"""The calling end of one connection of a link."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import cast

from deployments.link import (
    ANSWER,
    BUSY,
    CALL,
    CANCEL,
    FAILED,
    HELLO,
    MAX_FRAME_BYTES,
    WELCOME,
    FrameReader,
    FrameWriter,
    LinkAddress,
    LinkBroken,
    LinkBusy,
    LinkFailed,
)

MAX_CALLS = 4096


async def connect(address: LinkAddress) -> LinkConnection:
    """An open connection, with the other side's welcome. Raises `OSError`; `LinkBroken`, if we are not welcome."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(LinkConnection, address.host, address.port)
    try:
        await connection.introduce(address.secret)
        if connection.lost.done():
            raise LinkBroken("the connection broke")
    except BaseException:
        connection.abort()
        raise
    return connection


class LinkConnection(asyncio.Protocol):
    """Made by `connect`. `lost` is done when the connection is gone; `on_lost` is called before its calls fail."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.on_lost: Callable[[], None] | None = None
        self.heard_s = self._loop.time()
        self._welcome: asyncio.Future[bytes] = self._loop.create_future()
        self._frames = FrameReader(MAX_FRAME_BYTES)
        self._calls: dict[int, asyncio.Future[bytes]] = {0: self._welcome}
        self._numbers = itertools.count(1)
        self._closing = False

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._calls)

    async def introduce(self, secret: bytes) -> None:
        """Says the secret. Returns when we are welcome; raises `LinkBroken`."""
        self._writer.send(HELLO, 0, secret)
        await self._welcome

    async def call(self, request: bytes) -> bytes:
        """See `deployments.link.Link.call`, without the timeout."""
        if self.lost.done():
            raise LinkBroken("the connection is gone")
        if len(self._calls) >= MAX_CALLS:
            raise LinkBusy
        if len(request) > MAX_FRAME_BYTES:
            raise ValueError(f"a request of {len(request)} bytes")
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._calls[number] = answer
        self._writer.send(CALL, number, request)
        try:
            return await answer
        finally:
            if self._calls.pop(number, None) is not None:
                self._writer.send(CANCEL, number)
            self._abort_if_done()

    def close(self) -> None:
        """Breaks the connection as soon as no call is under way. Idempotent."""
        self._closing = True
        self._abort_if_done()

    def abort(self) -> None:
        """Breaks the connection. Idempotent."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._writer = FrameWriter(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(None)
        if self.on_lost is not None:
            self.on_lost()
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(LinkBroken("the connection broke"))
                answer.exception()  # nobody may wait for it any more

    def data_received(self, data: bytes) -> None:
        self.heard_s = self._loop.time()
        try:
            for kind, number, content in self._frames.feed(data):
                self._receive(kind, number, content)
        except LinkBroken:
            self.abort()

    def _abort_if_done(self) -> None:
        if self._closing and not self._calls:
            self.abort()

    def _receive(self, kind: int, number: int, content: bytes) -> None:
        answer = self._calls.pop(number, None)
        if answer is None or answer.done():
            return  # it came too late
        if kind in (ANSWER, WELCOME):
            answer.set_result(content)
        elif kind == BUSY:
            answer.set_exception(LinkBusy())
        elif kind == FAILED:
            answer.set_exception(LinkFailed())
        else:
            raise LinkBroken(f"an unexpected frame of kind {kind}")
