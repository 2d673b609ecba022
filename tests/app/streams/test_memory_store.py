"""The store in memory: the contract, and its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.errors import Overloaded, StoreUnavailable, StreamExpired, StreamNotFound
from app.schema.tokens import TokenBatch
from app.streams.learning import Learning
from app.streams.memory_store import MemoryStreamStore
from app.streams.store import Append, Order, Rejection
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


def test_a_new_store_says_of_no_stream_that_it_is_unknown_until_every_producer_has_told() -> None:
    async def main() -> None:
        learning = Learning(["d1", "d2", "d3"])
        store = MemoryStreamStore(BOUNDS, FakeClock(), learning)
        for producer in ("d1-a", "d2-b"):
            assert await store.renew(producer, 1.0) == [Order("tell", "")]
        assert await store.append("d1-a", [Append("st_a", 1, [])]) == [Rejection("st_a", "unknown")]
        await store.create(record("st_a"), "d1-a")
        assert await store.renew("d1-a", 0.0) == []
        assert (await store.record("st_a")).id == "st_a"
        assert await store.renew("d2-b", 1.0) == [Order("tell", "")], "it may have told another store"
        await store.append("d2-b", [])
        assert await store.renew("d2-b", 0.0) == []
        for owner in (None, "another"):
            with pytest.raises(StoreUnavailable):
                await store.record("st_b", owner)
        with pytest.raises(StoreUnavailable):
            await store.read("st_b", [0], 1.0)
        with pytest.raises(StreamNotFound):
            await store.record("st_a", "another")
        learning.keep(["d1", "d2"])
        for owner in (None, "another"):
            with pytest.raises(StreamNotFound):
                await store.record("st_b", owner)

    asyncio.run(main())


def test_an_append_before_the_question_does_not_tell_of_all_streams() -> None:
    async def main() -> None:
        store = MemoryStreamStore(BOUNDS, FakeClock(), Learning(["d1"]))
        await store.append("d1", [Append("st_a", 1, [])])
        assert await store.renew("d1", 0.0) == [Order("tell", "")]
        assert await store.renew("d1", 0.0) == [Order("tell", "")]

    asyncio.run(main())
