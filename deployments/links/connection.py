"""The calling end of a link."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Self, cast

from app.wakeup import Wakeup
from deployments.links.address import LinkAddress
from deployments.links.link import LinkBroken, LinkBusy, LinkFailed
from deployments.links.packet import (
    ANSWER,
    BUSY,
    CALL,
    CANCEL,
    FAILED,
    HELLO,
    ITEM,
    MAX_PACKET_BYTES,
    STREAMING_CALL,
    WELCOME,
    PacketReader,
    PacketWriter,
)

MAX_CALLS = 65_536
"""Open calls of one connection. The called process has a lower bound for all of its connections."""


async def connect(address: LinkAddress) -> LinkConnection:
    """An open connection that has been welcomed. Raises `OSError`; `LinkBroken` if the other process refuses it."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(LinkConnection, address.host, address.port)
    try:
        await connection.authenticate(address.secret)
        if connection.lost.done():
            raise LinkBroken("The connection broke.")
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
        self.last_received_s = self._loop.time()
        self._welcome: asyncio.Future[bytes] = self._loop.create_future()
        self._reader = PacketReader(MAX_PACKET_BYTES)
        self._answers: dict[int, asyncio.Future[bytes]] = {0: self._welcome}
        self._streaming: dict[int, StreamingCall] = {}
        self._numbers = itertools.count(1)
        self._closing = False

    @property
    def calls(self) -> int:
        """The number of open calls."""
        return len(self._answers)

    async def authenticate(self, secret: bytes) -> None:
        """Sends the secret and waits for the welcome. Raises `LinkBroken`."""
        self._writer.send(HELLO, 0, secret)
        await self._welcome

    async def call(self, request: bytes) -> bytes:
        """See `deployments.links.link.Link.call`, without the timeout."""
        number, answer = self._begin(CALL, request)
        try:
            return await answer
        finally:
            self.leave(number)

    def streaming_call(self, request: bytes, *, beats: bool = False) -> StreamingCall:
        """Begins a call with many items. Raises what `call` raises.

        `beats`: the other process sends an item at least every few seconds. If such a call is cancelled and nothing has been
        received since it began, the other process is taken for dead, and the connection is broken.
        """
        number, ended = self._begin(STREAMING_CALL, request)
        call = self._streaming[number] = StreamingCall(self, number, ended, beats)
        return call

    def leave(self, number: int) -> None:
        """Cancels a call in the other process. Does nothing after its end."""
        self._streaming.pop(number, None)
        if self._answers.pop(number, None) is not None:
            self._writer.send(CANCEL, number)
        self._abort_if_done()

    def close(self) -> None:
        """Breaks the connection as soon as no call is open. Idempotent."""
        self._closing = True
        self._abort_if_done()

    def abort(self) -> None:
        """Breaks the connection. Idempotent."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._writer = PacketWriter(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(None)
        if self.on_lost is not None:
            self.on_lost()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(LinkBroken("The connection broke."))
                answer.exception()  # a caller who has left can't retrieve it

    def data_received(self, data: bytes) -> None:
        self.last_received_s = self._loop.time()
        try:
            for kind, number, content in self._reader.feed(data):
                self._receive(kind, number, content)
        except LinkBroken:
            self.abort()

    def _abort_if_done(self) -> None:
        if self._closing and not self._answers:
            self.abort()

    def _begin(self, kind: int, request: bytes) -> tuple[int, asyncio.Future[bytes]]:
        """Sends a request. Its number, and the future of its answer or end."""
        if self.lost.done():
            raise LinkBroken("The connection is gone.")
        if len(self._answers) >= MAX_CALLS:
            raise LinkBusy(f"This connection already has {MAX_CALLS} open calls, the maximum.")
        if len(request) > MAX_PACKET_BYTES:
            raise ValueError(f"A request has {len(request)} bytes; at most {MAX_PACKET_BYTES} are allowed.")
        number = next(self._numbers)
        answer = self._answers[number] = self._loop.create_future()
        self._writer.send(kind, number, request)
        return number, answer

    def _receive(self, kind: int, number: int, content: bytes) -> None:
        if kind == ITEM:
            if number in self._streaming:
                self._streaming[number].put(content)
            return
        answer = self._answers.pop(number, None)
        if answer is None or answer.done():
            return  # its caller has left
        if kind in (ANSWER, WELCOME):
            answer.set_result(content)
        elif kind == BUSY:
            answer.set_exception(LinkBusy("The called process already has its maximum of open calls."))
        elif kind == FAILED:
            answer.set_exception(LinkFailed("The call failed in the called process, which has logged why."))
        else:
            raise LinkBroken(f"A packet has the kind {kind}, which a caller must not get.")
        if self._streaming.pop(number, None) is not None:
            self._abort_if_done()


class StreamingCall:
    """The items that answer one request. Iteration ends with them, or raises what a call raises.

    The call stays open until the items end or until it is cancelled.
    """

    def __init__(
        self, connection: LinkConnection, number: int, ended: asyncio.Future[bytes], beats: bool
    ) -> None:
        self._connection = connection
        self._number = number
        self._ended = ended
        self._items: deque[bytes] = deque()
        self._wake = Wakeup()
        self._silent_since_s = connection.last_received_s if beats else -math.inf
        ended.add_done_callback(lambda _: self._wake())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._items:
            if self._ended.done():
                self._ended.result()
                raise StopAsyncIteration
            await self._wake.wait()
        return self._items.popleft()

    def put(self, item: bytes) -> None:
        self._items.append(item)
        self._wake()

    def cancel(self) -> None:
        """Ends the call in both processes; its reader gets `CancelledError`. Idempotent; does nothing after the end."""
        if self._ended.done():
            return
        self._ended.cancel()
        self._connection.leave(self._number)
        if self._connection.last_received_s <= self._silent_since_s:
            self._connection.abort()
