"""Streaming calls over real connections on the loopback: order of items, ends, cancellation, slow callers, and breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from deployments.links.connection import LinkConnection, StreamingCall
from deployments.links.link import LinkBroken, LinkBusy, LinkFailed
from deployments.links.packet import HELLO, MAX_PACKET_BYTES, STREAMING_CALL, WELCOME
from deployments.links.server import LinkServer
from tests.deployments.links.harness import HOST, PATIENCE_S, connected, hung_up, packet, until


async def _no_calls(request: bytes) -> bytes:
    raise NotImplementedError


class Source:
    """A process that sends what is put into `items` to each of its callers. None ends a call."""

    def __init__(self, *, max_calls: int = 8) -> None:
        self.server = LinkServer(_no_calls, max_calls=max_calls, streaming_handler=self.items_for)
        self.items: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.sent = self.open = self.left = 0

    async def items_for(self, request: bytes) -> AsyncGenerator[bytes, None]:
        self.open += 1
        try:
            yield b"for " + request
            if request == b"fail":
                raise RuntimeError("secret text")
            if request == b"huge":
                yield bytes(MAX_PACKET_BYTES + 1)
            while request == b"endless":
                await asyncio.sleep(0)
                yield bytes(64 * 1024)
                self.sent += 1
            while (item := await self.items.get()) is not None:
                yield item
        finally:
            self.open -= 1
            self.left += 1


def live(test: Callable[[Source, LinkConnection], Awaitable[None]], *, max_calls: int = 8) -> None:
    async def main() -> None:
        source = Source(max_calls=max_calls)
        async with connected(source.server) as connection:
            await test(source, connection)
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: source.open == 0)

    asyncio.run(main())


async def read(call: StreamingCall) -> list[bytes]:
    return [item async for item in call]


def test_items_keep_their_order_and_the_call_ends_with_them() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        call = connection.streaming_call(b"x")
        assert await anext(call) == b"for x"
        items = [b"", b"abc", bytes(range(256)) * 2_000]
        for item in [*items, None]:
            source.items.put_nowait(item)
        assert await read(call) == items
        assert (connection.calls, source.server.calls, source.open) == (0, 0, 0)
        call.cancel()

    live(test)


def test_what_came_before_the_end_is_read_after_it() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        call = connection.streaming_call(b"x")
        source.items.put_nowait(b"ab")
        source.items.put_nowait(None)
        await until(lambda: source.left == 1 and connection.calls == 0)
        assert await read(call) == [b"for x", b"ab"]

    live(test)


@pytest.mark.parametrize(("begun", "beats"), [(False, False), (True, False), (True, True)])
def test_a_streaming_call_that_is_cancelled_ends_on_both_sides(begun: bool, beats: bool) -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        keeps = connection.streaming_call(b"y")
        await anext(keeps)
        call = connection.streaming_call(b"x", beats=beats)
        if begun:
            await anext(call)
        reading = asyncio.ensure_future(read(call))
        await asyncio.sleep(0)
        call.cancel()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: source.open == 1)
        source.items.put_nowait(b"ab")
        assert await anext(keeps) == b"ab"
        assert connection.calls == 1

    live(test)


def test_a_cancelled_call_without_beats_breaks_the_connection() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        other, call = connection.streaming_call(b"y"), connection.streaming_call(b"x", beats=True)
        call.cancel()  # nothing was heard since it began, as from a process that is dead
        await connection.lost
        with pytest.raises(LinkBroken):
            await read(other)

    live(test)


def test_what_a_streaming_call_raises_stays_on_the_other_side(caplog: pytest.LogCaptureFixture) -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        for request in (b"fail", b"huge"):
            call = connection.streaming_call(request)
            assert await anext(call) == b"for " + request
            with pytest.raises(LinkFailed) as raised:
                await anext(call)
            assert "secret" not in str(raised.value)

    live(test)
    assert "secret text" in caplog.text


def test_too_many_streaming_calls_are_refused() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        first = connection.streaming_call(b"x")
        with pytest.raises(LinkBusy):
            await read(connection.streaming_call(b"y"))
        assert await anext(first) == b"for x"
        with pytest.raises(ValueError, match="bytes"):
            connection.streaming_call(bytes(MAX_PACKET_BYTES + 1))

    live(test, max_calls=1)


def test_a_break_fails_the_streaming_calls_after_the_items_received_before_it() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        call, other = connection.streaming_call(b"x"), connection.streaming_call(b"y")
        assert await anext(other) == b"for y"
        connection.abort()
        await connection.lost
        assert await anext(call) == b"for x"
        for each in (call, other):
            with pytest.raises(LinkBroken):
                await anext(each)
        with pytest.raises(LinkBroken):
            connection.streaming_call(b"z")

    live(test)


def test_a_closed_connection_waits_for_its_streaming_calls() -> None:
    async def test(source: Source, connection: LinkConnection) -> None:
        call = connection.streaming_call(b"x")
        connection.close()
        source.items.put_nowait(b"ab")
        source.items.put_nowait(None)
        assert await read(call) == [b"for x", b"ab"]
        await connection.lost

    live(test)


def test_a_caller_that_does_not_read_gets_no_more_items() -> None:
    async def main() -> None:
        source = Source()
        address = await source.server.listen(HOST)
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=1024)
        writer.write(packet(HELLO, 0, address.secret) + packet(STREAMING_CALL, 1, b"endless"))
        await reader.readexactly(len(packet(WELCOME, 0)))
        before = -1
        while source.sent != before or not before:  # the kernel's buffers are full when it stands still
            before = source.sent
            for _ in range(200):
                await asyncio.sleep(0)
        assert source.sent * 64 * 1024 < 32 * 1024 * 1024
        while source.sent <= before:
            await reader.read(1024 * 1024)
        writer.close()
        await until(lambda: source.open == 0)
        await source.server.close()

    asyncio.run(main())


def test_a_process_without_streaming_calls_disconnects_who_begins_one() -> None:
    async def main() -> None:
        server = LinkServer(_no_calls, max_calls=1)
        address = await server.listen(HOST)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(packet(HELLO, 0, address.secret))
        await reader.readexactly(len(packet(WELCOME, 0)))
        writer.write(packet(STREAMING_CALL, 1, b"x"))
        await hung_up(reader)
        writer.close()
        await server.close()

    asyncio.run(main())
