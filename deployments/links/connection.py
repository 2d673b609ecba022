"""The calling end of one connection of a link."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Self, cast

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
    WELCOME,
    FrameReader,
    FrameWriter,
    LinkAddress,
    LinkBroken,
    LinkBusy,
    LinkFailed,
)

MAX_CALLS = 65_536
"""Under way on one connection; the other side has bounds of its own, which are lower."""


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
        self._feeds: dict[int, LinkFeed] = {}
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
        """See `deployments.links.link.Link.call`, without the timeout."""
        number, answer = self._begin(CALL, request)
        try:
            return await answer
        finally:
            self.leave(number)

    def follow(self, request: bytes, *, beats: bool = False) -> LinkFeed:
        """A feed: the answers to `request` one by one. Raises as `call` does.

        `beats`: something always comes before long. When such a feed is cancelled and nothing was heard since it began, the
        connection is taken for dead, and broken.
        """
        number, ended = self._begin(FOLLOW, request)
        feed = self._feeds[number] = LinkFeed(self, number, ended, beats)
        return feed

    def leave(self, number: int) -> None:
        """Ends a call: its answers are not wanted any more. Harmless after its end."""
        self._feeds.pop(number, None)
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

    def _begin(self, kind: int, request: bytes) -> tuple[int, asyncio.Future[bytes]]:
        """Sends a request; its number, and the future of its one or last answer."""
        if self.lost.done():
            raise LinkBroken("the connection is gone")
        if len(self._calls) >= MAX_CALLS:
            raise LinkBusy
        if len(request) > MAX_FRAME_BYTES:
            raise ValueError(f"a request of {len(request)} bytes")
        number = next(self._numbers)
        answer = self._calls[number] = self._loop.create_future()
        self._writer.send(kind, number, request)
        return number, answer

    def _receive(self, kind: int, number: int, content: bytes) -> None:
        if kind == ITEM:
            if number in self._feeds:
                self._feeds[number].put(content)
            return
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
        if self._feeds.pop(number, None) is not None:
            self._abort_if_done()


class LinkFeed:
    """The answers to one request, as they come. Iterating raises what a call raises, when that is its end.

    Implements `deployments.ingress.calls.Call`: it goes on until the answers end or until it is cancelled.
    """

    def __init__(
        self, connection: LinkConnection, number: int, ended: asyncio.Future[bytes], beats: bool
    ) -> None:
        self._connection = connection
        self._number = number
        self._ended = ended
        self._items: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._silent_s = connection.heard_s if beats else -math.inf
        ended.add_done_callback(lambda _: self._wake())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._items:
            if self._ended.done():
                self._ended.result()
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._items.popleft()

    def put(self, item: bytes) -> None:
        self._items.append(item)
        self._wake()

    def cancel(self) -> None:
        """Ends the feed on both sides; who waits in it gets `CancelledError`. Idempotent; harmless after the end."""
        if self._ended.done():
            return
        self._ended.cancel()
        self._connection.leave(self._number)
        if self._connection.heard_s <= self._silent_s:
            self._connection.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
