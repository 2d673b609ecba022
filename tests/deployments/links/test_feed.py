"""Feeds over real connections on the loopback: items in order, ends, cancellation, slow followers, and what breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from deployments.ingress.replicas import ReplicaGone
from deployments.links.connection import LinkConnection, LinkFeed
from deployments.links.link import FOLLOW, HELLO, MAX_FRAME_BYTES, WELCOME, LinkBroken, LinkBusy, LinkFailed
from deployments.links.server import LinkServer
from tests.deployments.links.test_link import (
    HOST,
    PATIENCE_S,
    Deployment,
    connected,
    deployed,
    frame,
    hung_up,
    until,
)


async def _no_calls(request: bytes) -> bytes:
    raise NotImplementedError


class Source:
    """A process that feeds: what is put into `items` goes to all who follow; None ends their feeds."""

    def __init__(self, *, max_calls: int = 8) -> None:
        self.server = LinkServer(_no_calls, max_calls=max_calls, feeder=self.feed)
        self.items: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.sent = self.following = self.left = 0

    async def feed(self, request: bytes) -> AsyncGenerator[bytes, None]:
        self.following += 1
        try:
            yield b"for " + request
            if request == b"fail":
                raise RuntimeError("secret text")
            if request == b"huge":
                yield bytes(MAX_FRAME_BYTES + 1)
            while request == b"endless":
                await asyncio.sleep(0)
                yield bytes(64 * 1024)
                self.sent += 1
            while (item := await self.items.get()) is not None:
                yield item
        finally:
            self.following -= 1
            self.left += 1


def live(test: Callable[[Source, LinkConnection], Awaitable[None]], *, max_calls: int = 8) -> None:
    async def main() -> None:
        source = Source(max_calls=max_calls)
        async with connected(source.server) as connection:
            await test(source, connection)
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: source.following == 0)

    asyncio.run(main())


async def read(feed: LinkFeed) -> list[bytes]:
    return [item async for item in feed]


def test_items_come_in_their_order_and_the_feed_ends_when_they_do() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        feed = connection.follow(b"x")
        assert await anext(feed) == b"for x"
        items = [b"", b"abc", bytes(range(256)) * 2_000]
        for item in [*items, None]:
            source.items.put_nowait(item)
        assert await read(feed) == items
        assert (connection.calls, source.server.calls, source.following) == (0, 0, 0)
        feed.cancel()

    live(test)


def test_what_came_before_the_end_is_read_after_it() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        feed = connection.follow(b"x")
        source.items.put_nowait(b"ab")
        source.items.put_nowait(None)
        await until(lambda: source.left == 1 and connection.calls == 0)
        assert await read(feed) == [b"for x", b"ab"]

    live(test)


@pytest.mark.parametrize(("begun", "beats"), [(False, False), (True, False), (True, True)])
def test_a_feed_that_is_cancelled_ends_on_both_sides(begun: bool, beats: bool) -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        keeps = connection.follow(b"y")
        await anext(keeps)
        feed = connection.follow(b"x", beats=beats)
        if begun:
            await anext(feed)
        reading = asyncio.ensure_future(read(feed))
        await asyncio.sleep(0)
        feed.cancel()
        feed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: source.following == 1)
        source.items.put_nowait(b"ab")
        assert await anext(keeps) == b"ab"
        assert connection.calls == 1

    live(test)


def test_a_connection_without_beats_is_broken() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        other, feed = connection.follow(b"y"), connection.follow(b"x", beats=True)
        feed.cancel()  # nothing was heard since it began, as from a process that is dead
        await connection.lost
        with pytest.raises(LinkBroken):
            await read(other)

    live(test)


def test_what_a_feed_raises_stays_on_the_other_side(caplog: pytest.LogCaptureFixture) -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        for request in (b"fail", b"huge"):
            feed = connection.follow(request)
            assert await anext(feed) == b"for " + request
            with pytest.raises(LinkFailed) as raised:
                await anext(feed)
            assert "secret" not in str(raised.value)

    live(test)
    assert "secret text" in caplog.text


def test_too_many_feeds_are_refused() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        first = connection.follow(b"x")
        with pytest.raises(LinkBusy):
            await read(connection.follow(b"y"))
        assert await anext(first) == b"for x"
        with pytest.raises(ValueError, match="bytes"):
            connection.follow(bytes(MAX_FRAME_BYTES + 1))

    live(test, max_calls=1)


def test_a_break_fails_the_feeds_behind_what_had_come() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        feed, other = connection.follow(b"x"), connection.follow(b"y")
        assert await anext(other) == b"for y"
        connection.abort()
        await connection.lost
        assert await anext(feed) == b"for x"
        for each in (feed, other):
            with pytest.raises(LinkBroken):
                await anext(each)
        with pytest.raises(LinkBroken):
            connection.follow(b"z")

    live(test)


def test_a_closed_connection_waits_for_its_feeds() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        feed = connection.follow(b"x")
        connection.close()
        source.items.put_nowait(b"ab")
        source.items.put_nowait(None)
        assert await read(feed) == [b"for x", b"ab"]
        await connection.lost

    live(test)


def test_who_does_not_read_is_not_fed() -> None:
    async def main() -> None:
        source = Source()
        address = await source.server.listen(HOST)
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=1024)
        writer.write(frame(HELLO, 0, address.secret) + frame(FOLLOW, 1, b"endless"))
        await reader.readexactly(len(frame(WELCOME, 0)))
        before = -1
        while source.sent != before or not before:  # the kernel's buffers are full when it stands still
            before = source.sent
            for _ in range(200):
                await asyncio.sleep(0)
        assert source.sent * 64 * 1024 < 32 * 1024 * 1024
        while source.sent <= before:
            await reader.read(1024 * 1024)
        writer.close()
        await until(lambda: source.following == 0)
        await source.server.close()

    asyncio.run(main())


def test_who_feeds_nobody_hangs_up_on_those_who_want_it() -> None:
    async def main() -> None:
        server = LinkServer(_no_calls, max_calls=1)
        address = await server.listen(HOST)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(frame(HELLO, 0, address.secret))
        await reader.readexactly(len(frame(WELCOME, 0)))
        writer.write(frame(FOLLOW, 1, b"x"))
        await hung_up(reader)
        writer.close()
        await server.close()

    asyncio.run(main())


# One replica of a deployment.


def test_a_replica_is_reached_by_its_name() -> None:
    async def test(deployment: Deployment) -> None:
        for name in "ab":
            deployment.add(name)
        with pytest.raises(LinkBroken):
            deployment.client.to("a")
        await deployment.connected(2)
        await deployment.client.call(b"ab", PATIENCE_S)
        await until(lambda: deployment.reached("a", "b"))
        for name in "ab":
            calling = asyncio.ensure_future(deployment.client.to(name).call(b"wait"))
            callee = deployment.replicas[name]
            await callee.until(lambda callee=callee: callee.waiting == 1)  # type: ignore[misc]
            callee.go_on.set()
            await calling
        with pytest.raises(ReplicaGone):
            deployment.client.to("c")

    deployed(test)


def test_a_replica_that_is_not_listed_is_reached_while_something_is_under_way_there() -> None:
    async def test(deployment: Deployment) -> None:
        callee = deployment.add("a")
        call = asyncio.ensure_future(deployment.client.call(b"wait", PATIENCE_S))
        await callee.until(lambda: callee.waiting == 1)
        deployment.directory.publish([])
        await asyncio.sleep(0)
        assert await deployment.client.to("a").call(b"ab") == b"ba"
        callee.go_on.set()
        assert await call == b"tiaw"
        await until(lambda: not callee.server.connections)
        await until(lambda: not deployment.reached("a"))
        with pytest.raises(ReplicaGone):
            deployment.client.to("a")

    deployed(test)
