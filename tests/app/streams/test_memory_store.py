"""The store in memory: the contract, and its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.errors import Overloaded, StreamExpired, StreamNotFound
from app.schema.tokens import TokenBatch
from app.streams.memory_store import MemoryStreamStore
from app.streams.store import Append
from app.streams.store_bounds import StoreBounds
from tests.contracts.stream_store import ENDING, LEASE_S, RETENTION_S, StreamStoreContract
from tests.fakes.clock import FakeClock, settle
from tests.fakes.requests import record

BOUNDS = StoreBounds(max_streams=3, max_tokens=40, retention_s=RETENTION_S, max_age_s=100.0, lease_s=LEASE_S)


class MemoryWorld:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStreamStore(BOUNDS, self.clock)

    async def pass_time(self, duration_s: float) -> None:
        await self.clock.advance(duration_s)


class TestMemoryStreamStore(StreamStoreContract):
    @asynccontextmanager
    async def world(self) -> AsyncIterator[MemoryWorld]:
        yield MemoryWorld()


def test_the_oldest_ended_stream_makes_room_for_a_new_one() -> None:
    async def main() -> None:
        store = MemoryWorld().store
        for name in ("st_a", "st_b", "st_c"):
            await store.create(record(name), "d1")
        with pytest.raises(Overloaded):
            await store.create(record("st_d"), "d1")
        await store.append("d1", [Append("st_b", 1, [], ENDING), Append("st_a", 1, [], ENDING)])
        await store.create(record("st_d"), "d1")
        with pytest.raises(StreamExpired):
            await store.record("st_b")
        assert (await store.record("st_a")).id == "st_a"

    asyncio.run(main())


def test_tokens_are_bounded_and_counted() -> None:
    async def main() -> None:
        store = MemoryWorld().store
        await store.create(record("st_a"), "d1")
        await store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 0, list(range(37)))], ENDING)])
        assert store.statistics().tokens == 39
        await store.create(record("st_b"), "d1")
        statistics = store.statistics()
        assert (statistics.streams, statistics.running, statistics.tokens, statistics.tombstones) == (
            1,
            1,
            2,
            1,
        )

    asyncio.run(main())


def test_a_producer_whose_call_is_cut_is_soon_gone() -> None:
    async def main() -> None:
        world = MemoryWorld()
        await world.store.create(record("st_a"), "d1")
        renewing = asyncio.ensure_future(world.store.renew("d1", 0.9))
        await settle()
        renewing.cancel()
        await settle()
        assert await world.store.take("st_a", "d2") is None
        await world.pass_time(0.3)
        assert await world.store.take("st_a", "d2") == 2

    asyncio.run(main())


def test_a_running_stream_does_not_stay_for_ever() -> None:
    async def main() -> None:
        world = MemoryWorld()
        await world.store.create(record("st_a"), "d1")
        await world.pass_time(101)
        await world.store.append("d1", [])
        with pytest.raises(StreamExpired):
            await world.store.read("st_a", [0])

    asyncio.run(main())


LEARNING_S = 4.0


def test_a_new_store_is_told_of_running_streams_before_it_says_that_there_is_none() -> None:
    async def main() -> None:
        clock = FakeClock()
        store = MemoryStreamStore(BOUNDS, clock, LEARNING_S)
        await clock.advance(100.0)  # no process has found the store yet
        await store.renew("d2", 0.0)
        known = asyncio.ensure_future(store.record("st_a"))
        unknown = asyncio.ensure_future(store.record("st_b"))
        of_another = asyncio.ensure_future(store.record("st_a", "another"))
        await clock.advance(1.0)
        await store.create(record("st_a"), "d1")
        await clock.advance(1.0)
        assert not known.done(), "its tokens are not there yet, and a reader may have some"
        await store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 0, [1, 2])])])
        await clock.advance(0.1)
        assert (await known).id == "st_a"
        assert not unknown.done() and not of_another.done()
        await clock.advance(LEARNING_S - 2)
        for waiting in (unknown, of_another):
            assert isinstance(waiting.exception(), StreamNotFound)
        with pytest.raises(StreamNotFound):
            await store.record("st_c")

    asyncio.run(main())
