"""Readers in several processes that share a stream store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidCursor, StoreUnavailable, TooManyReaders
from app.schema.tokens import TokenBatch
from app.settings import StreamsSettings
from app.streams.audience import RETRY_S, Audience
from app.streams.memory_store import MemoryStreamStore
from app.streams.reader import Reader
from app.streams.store_bounds import StoreBounds
from app.streams.stream import Stream
from app.tasks import Tasks
from tests.app.streams.test_stream import stream_of
from tests.fakes.clock import FakeClock, settle
from tests.fakes.requests import record, request

LEASE_S, GRACE_S, MOST = 3.0, 30.0, 3


class CountingStore(MemoryStreamStore):
    """Knows how often it was told of readers, and may not answer."""

    calls = 0
    fails = False

    async def count_readers(self, stream: str, process: str, readers: int) -> int:
        self.calls += 1
        await asyncio.sleep(0)
        if self.fails:
            raise StoreUnavailable("away")
        return await super().count_readers(stream, process, readers)


class Process:
    """One process with its own copy of the stream, which the first has created."""

    def __init__(self, name: str, world: World, fields: dict[str, Any]) -> None:
        self.name = name
        self.tasks = Tasks()
        settings = StreamsSettings(max_readers=MOST, grace_s=GRACE_S)
        self.audience = Audience(settings, world.store, name=name, clock=world.clock, tasks=self.tasks)
        self.stream = stream_of(request(**fields), on_left=self.audience.left)

    async def join(self, **more: Any) -> Reader:
        return await self.audience.join(self.stream, **more)


class World:
    def __init__(self, **fields: Any) -> None:
        self.clock = FakeClock()
        self.store = CountingStore(StoreBounds(lease_s=LEASE_S), self.clock)
        self.fields = {"on_disconnect": "cancel", **fields}
        self.first, self.second = (Process(name, self, self.fields) for name in ("i1", "i2"))
        self.second.stream.produce_elsewhere()

    async def create(self) -> None:
        await self.store.create(record("st_1", **self.fields), "i1")
        self.first.audience.expect(self.first.stream)

    async def pass_time(self, duration_s: float) -> None:
        """In steps, between which both processes renew their leases."""
        for _ in range(round(duration_s / 0.5)):
            for name in ("i1", "i2"):
                await self.store.append(name, [])
            await self.clock.advance(0.5)

    async def counted(self) -> int:
        """The readers of which the store knows."""
        await settle()
        return await MemoryStreamStore.count_readers(self.store, "st_1", "nobody", 0)


def live(test: Callable[[World], Awaitable[None]], **fields: Any) -> None:
    async def main() -> None:
        world = World(**fields)
        await world.create()
        await test(world)
        for process in (world.first, world.second):
            process.tasks.cancel()
            await process.tasks.ended()

    asyncio.run(main())


def finish_reason(stream: Stream) -> str | None:
    return stream.choices[0].finish_reason


def test_a_stream_with_one_reader_costs_no_call() -> None:
    async def test(world: World) -> None:
        reader = await world.first.join()
        world.first.stream.feed(TokenBatch(1, 0, 0, [97], "stop"))
        reader.take()
        reader.close()
        await settle()
        assert world.store.calls == 0 and not world.first.tasks

    live(test)


def test_a_stream_has_so_many_readers_in_all_processes_together() -> None:
    async def test(world: World) -> None:
        readers = [await world.first.join(), await world.second.join(), await world.second.join()]
        for process in (world.first, world.second):
            with pytest.raises(TooManyReaders, match="3 readers") as refusal:
                await process.join()
            assert refusal.value.retry_after_s == 1
        assert await world.counted() == MOST
        readers.pop().close()
        await settle()
        await world.first.join()
        with pytest.raises(TooManyReaders):
            await world.second.join()

    live(test)


def test_of_two_that_come_at_once_for_the_last_place_one_gets_it() -> None:
    async def test(world: World) -> None:
        await world.first.join()
        await world.second.join()
        for processes in ((world.first, world.first), (world.second, world.second)):
            results: list[object] = list(
                await asyncio.gather(*(each.join() for each in processes), return_exceptions=True)
            )
            [reader] = [one for one in results if isinstance(one, Reader)]
            assert sum(isinstance(one, TooManyReaders) for one in results) == 1
            reader.close()
            await settle()
        # In two processes both may come too late for the other, but never are there too many.
        results = list(await asyncio.gather(world.first.join(), world.second.join(), return_exceptions=True))
        assert sum(isinstance(one, Reader) for one in results) <= 1
        await settle()
        assert (
            await world.counted()
            == len(world.first.stream.readers) + len(world.second.stream.readers)
            <= MOST
        )

    live(test)


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 1), st.integers(0, 3)), max_size=40))
def test_there_are_never_too_many_and_a_place_that_is_free_can_be_had(
    steps: list[tuple[bool, int, int]],
) -> None:
    async def test(world: World) -> None:
        here: list[Reader] = []
        for first, leaves, turns in steps:
            process = world.first if first else world.second
            if leaves < 0 and here:
                here.pop(leaves % len(here)).close()
            else:
                joining = asyncio.ensure_future(process.join())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if turns == 3:
                    joining.cancel()
                [result] = await asyncio.gather(joining, return_exceptions=True)
                if isinstance(result, Reader):
                    here.append(result)
            assert len(world.first.stream.readers) + len(world.second.stream.readers) == len(here) <= MOST
        await settle()
        awaited = world.first.stream.readers.expected
        if len(here) + awaited < MOST:
            here.append(await world.second.join())
        assert await world.counted() == len(here) + awaited

    live(test, on_disconnect="continue")


def test_whoever_is_refused_or_cancelled_or_wrong_leaves_no_reader() -> None:
    async def test(world: World) -> None:
        await world.first.join()
        joining = asyncio.ensure_future(world.second.join())
        await asyncio.sleep(0)
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        with pytest.raises(InvalidCursor):
            await world.second.join(after="x")
        assert len(world.second.stream.readers) == 0
        assert await world.counted() == 1

    live(test)


def test_a_stream_that_has_ended_may_have_any_number() -> None:
    async def test(world: World) -> None:
        world.second.stream.cancel()
        for _ in range(2 * MOST):
            await world.second.join()
        assert world.store.calls == 0

    live(test)


def test_a_detached_stream_has_no_reader_until_one_comes() -> None:
    async def test(world: World) -> None:
        readers = [await world.second.join() for _ in range(MOST)]
        with pytest.raises(TooManyReaders):
            await world.first.join()
        readers[0].close()
        await settle()
        await world.first.join()

    live(test, detach=True, on_disconnect="continue")


def test_without_a_log_the_readers_here_count() -> None:
    async def test(world: World) -> None:
        world.store.fails = True
        readers = [await world.first.join() for _ in range(MOST)]
        with pytest.raises(TooManyReaders):
            await world.first.join()
        for reader in readers[1:]:
            reader.close()
        await settle()
        world.store.fails = False
        await world.second.join()
        await world.second.join()
        await world.clock.advance(RETRY_S)
        assert await world.counted() == MOST

    live(test)


def test_without_readers_anywhere_it_is_cancelled_at_once() -> None:
    async def test(world: World) -> None:
        here, elsewhere = await world.first.join(), await world.second.join()
        here.close()
        await world.pass_time(10)
        assert finish_reason(world.first.stream) is None
        elsewhere.close()
        await world.clock.advance(RETRY_S)
        assert finish_reason(world.first.stream) == "cancelled"

    live(test)


def test_a_process_that_dies_takes_its_readers_with_it() -> None:
    async def test(world: World) -> None:
        here = await world.first.join()
        await world.second.join()
        here.close()
        for _ in range(10):
            await world.store.append("i1", [])
            await world.clock.advance(LEASE_S / 8)
        assert finish_reason(world.first.stream) == "cancelled"

    live(test)


@pytest.mark.parametrize("log_fails", [False, True])
def test_one_that_begins_and_does_not_come_leaves_a_stream_without_a_reader(log_fails: bool) -> None:
    async def test(world: World) -> None:
        world.store.fails = log_fails
        world.first.audience.left(world.first.stream)
        await settle()
        assert finish_reason(world.first.stream) == "cancelled"

    live(test)


def test_the_time_of_grace_begins_when_the_last_reader_leaves_wherever_that_is() -> None:
    async def test(world: World) -> None:
        stream = world.first.stream
        (await world.first.join()).close()
        await world.pass_time(GRACE_S - 5)
        (await world.first.join()).close()
        await world.pass_time(GRACE_S - 5)
        assert finish_reason(stream) is None, "it was read in the meantime"
        elsewhere = await world.second.join()
        await world.pass_time(2 * GRACE_S)
        elsewhere.close()
        await world.pass_time(GRACE_S - 5)
        assert finish_reason(stream) is None
        await world.pass_time(6)
        assert finish_reason(stream) == "cancelled"

    live(test, on_disconnect="grace")


def test_a_stream_that_continues_does_not_need_a_reader() -> None:
    async def test(world: World) -> None:
        async with AsyncExitStack() as readers:
            readers.enter_context(await world.first.join())
            readers.enter_context(await world.second.join())
        await world.pass_time(100)
        assert finish_reason(world.first.stream) is None
        assert await world.counted() == 0

    live(test, on_disconnect="continue")
