"""Calls over real connections on the loopback: answers, cancellation, bounds, and breaks."""

from __future__ import annotations

import asyncio

import pytest

from deployments.links.connection import LinkConnection
from deployments.links.link import LinkBroken, LinkBusy, LinkFailed
from deployments.links.packet import ANSWER, CALL, CANCEL, FAILED, HELLO, MAX_PACKET_BYTES, WELCOME
from tests.deployments.links.harness import HOST, Callee, live, packet


def test_calls_are_answered_whatever_their_order_and_size() -> None:
    async def test(callee: Callee, connection: LinkConnection) -> None:
        waiting = asyncio.ensure_future(connection.call(b"wait"))
        requests = [b"", b"abc", bytes(range(256)) * 20_000]
        answers = await asyncio.gather(*(connection.call(request) for request in requests))
        assert answers == [request[::-1] for request in requests]
        assert not waiting.done() and connection.calls == 1
        callee.go_on.set()
        assert await waiting == b"tiaw"
        assert (connection.calls, callee.server.calls) == (0, 0)

    live(test)


def test_a_cancelled_call_is_cancelled_on_the_other_side() -> None:
    async def test(callee: Callee, connection: LinkConnection) -> None:
        call = asyncio.ensure_future(connection.call(b"wait"))
        await callee.until(lambda: callee.waiting == 1)
        call.cancel()
        await callee.until(lambda: callee.cancelled == 1)
        assert connection.calls == 0
        assert await connection.call(b"ab") == b"ba"
        assert callee.server.calls == 0

    live(test)


def test_a_call_may_be_cancelled_before_it_has_begun() -> None:
    async def main() -> None:
        callee = Callee()
        address = await callee.server.listen(HOST)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        words = [packet(HELLO, 0, address.secret), packet(CALL, 1, b"wait"), packet(CANCEL, 1)]
        writer.write(b"".join([*words, packet(CANCEL, 7), packet(CALL, 2, b"ab")]))
        replies = [packet(WELCOME, 0), packet(ANSWER, 2, b"ba"), packet(FAILED, 1)]
        assert await reader.readexactly(len(b"".join(replies))) == b"".join(replies)
        assert (callee.waiting, callee.cancelled) == (0, 0)
        writer.close()
        await callee.server.close()

    asyncio.run(main())


def test_what_a_call_raises_stays_on_the_other_side(caplog: pytest.LogCaptureFixture) -> None:
    async def test(callee: Callee, connection: LinkConnection) -> None:
        for request in (b"fail", b"huge"):
            with pytest.raises(LinkFailed) as raised:
                await connection.call(request)
            assert "secret" not in str(raised.value)
        assert await connection.call(b"ab") == b"ba"

    live(test)
    assert "secret text" in caplog.text


def test_too_many_calls_at_once_are_refused() -> None:
    async def test(callee: Callee, connection: LinkConnection) -> None:
        calls = [asyncio.ensure_future(connection.call(b"wait")) for _ in range(2)]
        await callee.until(lambda: callee.waiting == 2)
        with pytest.raises(LinkBusy):
            await connection.call(b"ab")
        callee.go_on.set()
        assert await asyncio.gather(*calls) == [b"tiaw"] * 2
        assert await connection.call(b"ab") == b"ba"

    live(test, max_calls=2)


def test_a_request_that_no_packet_holds_is_not_sent() -> None:
    async def test(callee: Callee, connection: LinkConnection) -> None:
        with pytest.raises(ValueError, match="bytes"):
            await connection.call(bytes(MAX_PACKET_BYTES + 1))
        assert await connection.call(b"ab") == b"ba"

    live(test)


def test_a_break_fails_the_calls_and_cancels_them() -> None:
    async def test(callee: Callee, connection: LinkConnection) -> None:
        calls = [asyncio.ensure_future(connection.call(b"wait")) for _ in range(3)]
        await callee.until(lambda: callee.waiting == 3)
        connection.abort()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [LinkBroken] * 3
        await callee.until(lambda: callee.cancelled == 3)
        with pytest.raises(LinkBroken):
            await connection.call(b"ab")

    live(test)


def test_a_closed_connection_waits_for_its_calls() -> None:
    async def test(callee: Callee, connection: LinkConnection) -> None:
        call = asyncio.ensure_future(connection.call(b"wait"))
        await callee.until(lambda: callee.waiting == 1)
        connection.close()
        callee.go_on.set()
        assert await call == b"tiaw"
        await connection.lost

    live(test)
