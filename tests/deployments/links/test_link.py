"""Links over real connections on the loopback: calls, cancellation, bounds, strangers, and what breaks."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.ingress.replica_links import LinkClient
from deployments.ingress.replicas import ReplicaDirectory, ReplicaGone
from deployments.links.connection import LinkConnection, connect
from deployments.links.link import (
    ANSWER,
    CALL,
    CANCEL,
    FAILED,
    HELLO,
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    WELCOME,
    Frame,
    FrameReader,
    LinkAddress,
    LinkBroken,
    LinkBusy,
    LinkFailed,
    decode_address,
    encode_address,
)
from deployments.links.server import MAX_STRANGERS, LinkServer

HOST = "127.0.0.1"
PATIENCE_S = 20.0


class Callee:
    """A process that can be called. It says backwards what it is told, except for some words."""

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
            return bytes(MAX_FRAME_BYTES + 1)
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
        """Returns when `condition` holds, which is looked at whenever a call begins to wait or ends."""
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


def frame(kind: int, number: int, content: bytes = b"") -> bytes:
    return struct.pack(">IBQ", len(content), kind, number) + content


async def until(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds, to which the kernel's part of a connection leads without a word."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def hung_up(reader: asyncio.StreamReader) -> None:
    """Returns when the other side has closed the connection, without having said anything."""
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)) as raised:
            await reader.readexactly(1)
        assert not getattr(raised.value, "partial", b"")


# Frames.


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary(max_size=40))),
    st.lists(st.integers(1, 30)),
)
def test_frames_come_out_however_they_are_cut(
    frames: list[tuple[int, int, bytes]], lengths: list[int]
) -> None:
    data = b"".join(frame(*each) for each in frames)
    reader = FrameReader(40)
    found: list[Frame] = []
    for length in lengths:
        found += reader.feed(data[:length])
        data = data[length:]
    found += reader.feed(data)
    assert found == frames


def test_a_frame_that_is_too_long_is_refused_by_its_header() -> None:
    reader = FrameReader(8)
    assert list(reader.feed(frame(1, 2, b"12345678"))) == [(1, 2, b"12345678")]
    with pytest.raises(LinkBroken):
        list(reader.feed(struct.pack(">IBQ", 9, 1, 3)))


def test_an_address_crosses_as_bytes() -> None:
    address = LinkAddress(HOST, 7, b"\x00s")
    assert decode_address(encode_address(address)) == address


# Calls.


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
        words = [frame(HELLO, 0, address.secret), frame(CALL, 1, b"wait"), frame(CANCEL, 1)]
        writer.write(b"".join([*words, frame(CANCEL, 7), frame(CALL, 2, b"ab")]))
        replies = [frame(WELCOME, 0), frame(ANSWER, 2, b"ba"), frame(FAILED, 1)]
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


def test_a_request_that_no_frame_holds_is_not_sent() -> None:
    async def test(callee: Callee, connection: LinkConnection) -> None:
        with pytest.raises(ValueError, match="bytes"):
            await connection.call(bytes(MAX_FRAME_BYTES + 1))
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


# Strangers.


@pytest.mark.parametrize(
    "words",
    [
        frame(HELLO, 0, b"guess"),
        frame(HELLO, 0, b""),
        frame(CALL, 1, b"ab"),
        frame(HELLO, 0, b"x" * (MAX_HELLO_BYTES + 1)),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_who_does_not_know_the_secret_hears_nothing(words: bytes) -> None:
    async def main() -> None:
        callee = Callee()
        address = await callee.server.listen(HOST)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(words)
        await hung_up(reader)
        writer.close()
        with pytest.raises(LinkBroken):
            await connect(LinkAddress(address.host, address.port, b"guess"))
        await callee.server.close()

    asyncio.run(main())


def test_who_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.links.server.HELLO_TIMEOUT_S", 0.01)

    async def main() -> None:
        callee = Callee()
        address = await callee.server.listen(HOST)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        await hung_up(reader)
        writer.close()
        await callee.server.close()

    asyncio.run(main())


def test_strangers_are_few_and_do_not_keep_out_those_who_are_in() -> None:
    async def test(callee: Callee, connection: LinkConnection) -> None:
        address = await callee.server.listen(HOST)
        strangers = [await asyncio.open_connection(HOST, address.port) for _ in range(MAX_STRANGERS)]
        await until(lambda: callee.server.strangers == MAX_STRANGERS)
        reader, writer = await asyncio.open_connection(HOST, address.port)
        await hung_up(reader)
        assert await connection.call(b"ab") == b"ba"
        for _, each in [*strangers, (reader, writer)]:
            each.close()

    live(test)


def test_a_frame_that_makes_no_sense_closes_the_connection() -> None:
    async def main() -> None:
        callee = Callee()
        address = await callee.server.listen(HOST)
        for nonsense in (frame(ANSWER, 1), frame(HELLO, 0), frame(CALL, 1, b"wait") * 2):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(frame(HELLO, 0, address.secret))
            assert await reader.readexactly(13) == frame(WELCOME, 0)
            writer.write(nonsense)
            await hung_up(reader)
            writer.close()
        await callee.server.close()

    asyncio.run(main())


# Links to the replicas of a deployment.


class Deployment:
    """Replicas of the test, as their directory lists them."""

    def __init__(self) -> None:
        self.directory = ReplicaDirectory()
        self.replicas: dict[str, Callee] = {}
        self.found: list[str] = []
        self.client = LinkClient(self.directory, self.find)

    async def find(self, replica: str) -> LinkAddress:
        self.found.append(replica)
        if replica not in self.replicas:
            raise ReplicaGone(replica)
        return await self.replicas[replica].server.listen(HOST)

    def add(self, name: str) -> Callee:
        callee = self.replicas[name] = Callee()
        self.directory.publish(self.replicas)
        return callee

    def reached(self, *replicas: str) -> bool:
        """Whether the client has connections to all of these."""
        try:
            return all(self.client.to(replica) for replica in replicas)
        except (LinkBroken, ReplicaGone):
            return False

    async def connected(self, replicas: int) -> None:
        callees = self.replicas.values()
        await until(lambda: sum(len(callee.server.connections) for callee in callees) == replicas)

    async def close(self) -> None:
        await self.client.close()
        for callee in self.replicas.values():
            await callee.server.close()


def deployed(test: Callable[[Deployment], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            deployment = Deployment()
            deployment.client.start()
            try:
                await test(deployment)
            finally:
                await deployment.close()

    asyncio.run(main())


def test_a_call_waits_for_the_first_replica() -> None:
    async def test(deployment: Deployment) -> None:
        call = asyncio.ensure_future(deployment.client.call(b"ab", PATIENCE_S))
        await asyncio.sleep(0)
        deployment.add("a")
        assert await call == b"ba"

    deployed(test)


def test_a_call_that_no_replica_takes_in_time_fails() -> None:
    async def test(deployment: Deployment) -> None:
        with pytest.raises(TimeoutError):
            await deployment.client.call(b"ab", 0.0)

    deployed(test)


def test_replicas_share_the_calls() -> None:
    async def test(deployment: Deployment) -> None:
        callees = [deployment.add(name) for name in "abc"]
        await deployment.connected(3)
        await deployment.client.call(b"ab", PATIENCE_S)
        calls = [asyncio.ensure_future(deployment.client.call(b"wait", PATIENCE_S)) for _ in range(6)]
        for callee in callees:
            await callee.until(lambda callee=callee: callee.waiting == 2)  # type: ignore[misc]
            callee.go_on.set()
        await asyncio.gather(*calls)

    deployed(test)


def test_a_broken_link_is_made_again() -> None:
    async def test(deployment: Deployment) -> None:
        callee = deployment.add("a")
        call = asyncio.ensure_future(deployment.client.call(b"wait", PATIENCE_S))
        await callee.until(lambda: callee.waiting == 1)
        for connection in list(callee.server.connections):
            connection.abort()
        with pytest.raises(LinkBroken):
            await call
        assert await deployment.client.call(b"ab", PATIENCE_S) == b"ba"
        assert deployment.found == ["a", "a"]

    deployed(test)


def test_a_replica_that_is_not_listed_any_more_gets_no_calls_but_may_end_those_it_has() -> None:
    async def test(deployment: Deployment) -> None:
        old = deployment.add("a")
        call = asyncio.ensure_future(deployment.client.call(b"wait", PATIENCE_S))
        await old.until(lambda: old.waiting == 1)
        new = deployment.replicas["b"] = Callee()
        deployment.directory.publish(["b"])
        await until(lambda: deployment.found == ["a", "b"])
        later = asyncio.ensure_future(deployment.client.call(b"wait", PATIENCE_S))
        await new.until(lambda: new.waiting == 1)
        old.go_on.set()
        new.go_on.set()
        assert [await call, await later] == [b"tiaw"] * 2
        assert old.waiting == 0

    deployed(test)


def test_a_replica_that_cannot_be_found_is_tried_again() -> None:
    async def test(deployment: Deployment) -> None:
        deployment.directory.publish(["a"])
        await until(lambda: deployment.found == ["a"])
        deployment.replicas["a"] = Callee()
        assert await deployment.client.call(b"ab", PATIENCE_S) == b"ba"

    deployed(test)


def test_a_connection_that_is_dead_is_given_up_after_a_timeout() -> None:
    async def test(deployment: Deployment) -> None:
        callee = deployment.add("a")
        await deployment.client.call(b"ab", PATIENCE_S)
        with pytest.raises(TimeoutError):
            await deployment.client.call(b"wait", 0.01)
        await callee.until(lambda: callee.cancelled == 1)
        assert await deployment.client.call(b"ab", PATIENCE_S) == b"ba"
        assert deployment.found == ["a", "a"]

    deployed(test)


def test_an_answer_to_another_call_shows_that_the_connection_lives() -> None:
    async def test(deployment: Deployment) -> None:
        callee = deployment.add("a")
        late = asyncio.ensure_future(deployment.client.call(b"wait", 0.1))
        await callee.until(lambda: callee.waiting == 1)
        await deployment.client.call(b"ab", PATIENCE_S)
        with pytest.raises(TimeoutError):
            await late
        await deployment.client.call(b"ab", PATIENCE_S)
        assert deployment.found == ["a"]

    deployed(test)
