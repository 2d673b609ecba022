"""What every `StreamStore` must do. A test subclasses `StreamStoreContract` and says how a store is made and how time passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import pytest

from app.errors import IdempotencyConflict, InvalidRequest, StreamExpired, StreamNotFound
from app.schema.frames import ChoiceEnd, End, Timings, Usage
from app.schema.tokens import Edit, TokenBatch, TokenLogprob
from app.streams.store import MAX_CHANGES, Append, Change, Idempotency, Order, Rejection, StreamStore
from tests.fakes.requests import record

ENDING = End("3", [ChoiceEnd(0, "stop", "x")], Usage(5, 3, 8), Timings(0.1, 0.2, 0.3, 10.0), ["00"])
LEASE_S, RETENTION_S = 1.0, 2.0


class StoreWorld(Protocol):
    """A store, with leases of `LEASE_S` and a retention of `RETENTION_S`, and its time."""

    @property
    def store(self) -> StreamStore: ...

    async def pass_time(self, duration_s: float) -> None: ...


class StreamStoreContract:
    """The contract. `world()` gives a fresh store."""

    def world(self) -> AbstractAsyncContextManager[StoreWorld]:
        raise NotImplementedError

    def live(self, test: Callable[[StoreWorld], Awaitable[None]]) -> None:
        async def main() -> None:
            async with self.world() as world:
                await test(world)

        asyncio.run(main())

    def test_what_is_appended_can_be_read_after_any_count(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            first = record("st_a", n=2, logprobs=1)
            assert await store.create(first, "d1") == "st_a"
            logprobs = [TokenLogprob(-0.5, [(7, -0.5), (8, -1.5)]), TokenLogprob(-0.25, [])]
            appends = [
                Append(
                    "st_a", 1, [TokenBatch(0, 0, 0, [7, 9], None, None, logprobs), TokenBatch(0, 1, 0, [5])]
                ),
                Append("st_a", 1, [TokenBatch(0, 1, 1, [6], "stop", 6)]),
            ]
            assert await store.append("d1", appends) == []
            assert await store.record("st_a", first.owner) == first
            whole = await store.read("st_a", [0, 0])
            assert whole.batches == [
                TokenBatch(0, 0, 0, [7, 9], None, None, logprobs),
                TokenBatch(0, 1, 0, [5, 6], "stop", 6),
            ]
            assert (whole.ending, whole.orphaned) == (None, False)
            rest = await store.read("st_a", [1, 1])
            assert rest.batches == [
                TokenBatch(0, 0, 1, [9], None, None, logprobs[1:]),
                TokenBatch(0, 1, 1, [6], "stop", 6),
            ]
            await store.append("d1", [Append("st_a", 1, [], ENDING)])
            assert (await store.read("st_a", [2, 2])).ending == ENDING

        self.live(test)

    def test_an_append_that_comes_twice_counts_once(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a"), "d1")
            append = Append("st_a", 1, [TokenBatch(0, 0, 0, [1, 2, 3])])
            await world.store.append("d1", [append])
            await world.store.append("d1", [append])
            await world.store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 2, [3, 4])], ENDING)])
            assert (
                await world.store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 2, [3, 4])], ENDING)])
                == []
            )
            assert [batch.token_ids for batch in (await world.store.read("st_a", [0])).batches] == [
                [1, 2, 3, 4]
            ]

        self.live(test)

    def test_only_the_producer_appends_and_only_in_its_epoch(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a"), "d1")
            token = TokenBatch(0, 0, 0, [1])
            assert await store.append("d2", [Append("st_a", 1, [token])]) == [Rejection("st_a", "stale")]
            assert await store.append("d1", [Append("st_a", 2, [token])]) == [Rejection("st_a", "stale")]
            assert await store.append("d1", [Append("st_b", 1, [token])]) == [Rejection("st_b", "unknown")]
            assert (await store.read("st_a", [0])).batches == []

        self.live(test)

    def test_the_lease_of_a_producer_that_is_gone_can_be_taken_once(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a"), "d1")
            assert await store.take("st_a", "d2") is None
            await world.pass_time(LEASE_S * 1.5)
            assert (await store.read("st_a", [0])).orphaned
            assert await store.take("st_a", "d2") == 2
            assert await store.take("st_a", "d3") is None
            assert not (await store.read("st_a", [0])).orphaned
            late = Append("st_a", 1, [TokenBatch(0, 0, 0, [1])])
            assert await store.append("d1", [late]) == [Rejection("st_a", "stale")]
            assert await store.append("d2", [Append("st_a", 2, [TokenBatch(0, 0, 0, [1])], ENDING)]) == []
            await world.pass_time(LEASE_S * 1.5)
            assert await store.take("st_a", "d3") is None

        self.live(test)

    def test_a_producer_that_renews_or_appends_keeps_its_lease(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a"), "d1")
            for _ in range(3):
                await world.pass_time(LEASE_S * 0.6)
                await world.store.renew("d1", 0.0)
            await world.pass_time(LEASE_S * 0.6)
            await world.store.append("d1", [])
            await world.pass_time(LEASE_S * 0.6)
            assert await world.store.take("st_a", "d2") is None

        self.live(test)

    def test_a_reader_waits_for_what_comes(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a"), "d1")
            reading = asyncio.ensure_future(world.store.read("st_a", [0], 5.0))
            await world.pass_time(0.05)
            assert not reading.done()
            await world.store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 0, [1])])])
            async with asyncio.timeout(5):
                excerpt = await reading
            assert [batch.token_ids for batch in excerpt.batches] == [[1]]

        self.live(test)

    def test_a_choice_that_has_ended_keeps_no_reader_busy(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a", n=2), "d1")
            await world.store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 0, [1], "length")])])
            reading = asyncio.ensure_future(world.store.read("st_a", [1, 0], 5.0))
            await world.pass_time(0.05)
            assert not reading.done()
            await world.store.append("d1", [Append("st_a", 1, [TokenBatch(0, 1, 0, [2])])])
            async with asyncio.timeout(5):
                excerpt = await reading
            assert TokenBatch(0, 1, 0, [2]) in excerpt.batches

        self.live(test)

    def test_a_reader_for_whom_nothing_comes_gets_an_empty_excerpt(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a"), "d1")
            reading = asyncio.ensure_future(world.store.read("st_a", [0], 0.2))
            await world.pass_time(0.3)
            async with asyncio.timeout(5):
                assert (await reading).batches == []

        self.live(test)

    def test_orders_reach_a_producer_that_waits(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a"), "d1")
            renewing = asyncio.ensure_future(world.store.renew("d1", 0.8))
            await world.pass_time(0.05)
            await world.store.order(Order("cancel", "st_a"))
            async with asyncio.timeout(5):
                assert await renewing == [Order("cancel", "st_a")]
            assert await world.store.renew("d1", 0.0) == []
            await world.store.order(Order("cancel", "st_a"))
            assert await world.store.renew("d1", 0.0) == [Order("cancel", "st_a")]

        self.live(test)

    def test_a_cancellation_outlives_the_producer(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a"), "d1")
            await world.pass_time(LEASE_S * 1.5)
            await world.store.order(Order("cancel", "st_a"))
            assert await world.store.take("st_a", "d2") == 2
            assert await world.store.renew("d2", 0.0) == [Order("cancel", "st_a")]

        self.live(test)

    def test_edits_are_kept_where_they_took_effect_each_once(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a", n=2), "d1")
            stops = Edit(id="a" * 16, position=2, stops=["x", "é"])
            steered = Edit(id="b" * 16, position=3, steered=2)
            first = Append("st_a", 1, [TokenBatch(0, 0, 0, [1, 2]), TokenBatch(0, 1, 0, [9])])
            second = Append(
                "st_a",
                1,
                [
                    TokenBatch(0, 0, 2, [3, 4, 5, 6], edits=[stops, steered]),
                    TokenBatch(0, 1, 1, [], edits=[msgspec.structs.replace(stops, position=1)]),
                ],
            )
            for append in (first, second, second):
                assert await store.append("d1", [append]) == []
            whole = (await store.read("st_a", [0, 0])).batches
            assert whole == [
                TokenBatch(0, 0, 0, [1, 2, 3, 4, 5, 6], edits=[stops, steered]),
                TokenBatch(0, 1, 0, [9], edits=[msgspec.structs.replace(stops, position=1)]),
            ]
            # An edit at the count itself is repeated: a reader with so many tokens may not know it.
            rest = (await store.read("st_a", [3, 1])).batches
            assert rest[0] == TokenBatch(0, 0, 3, [4, 5, 6], edits=[steered])
            assert rest[1] == TokenBatch(0, 1, 1, [], edits=[msgspec.structs.replace(stops, position=1)])
            assert (await store.read("st_a", [6, 2])).batches == []
            last = Append("st_a", 1, [TokenBatch(0, 0, 6, [7], "stop", 7)], ENDING)
            await store.append("d1", [last])
            assert (await store.read("st_a", [5, 2])).batches == [
                TokenBatch(0, 0, 5, [6, 7], "stop", 7, edits=[steered])
            ]

        self.live(test)

    def test_an_edit_without_tokens_keeps_no_reader_busy(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a"), "d1")
            edit = Edit(id="a" * 16, position=1, stops=["x"])
            await world.store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 0, [1], edits=[edit])])])
            reading = asyncio.ensure_future(world.store.read("st_a", [1], 5.0))
            await world.pass_time(0.05)
            assert not reading.done()
            await world.store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 1, [2])])])
            async with asyncio.timeout(5):
                assert (await reading).batches == [TokenBatch(0, 0, 1, [2], edits=[edit])]

        self.live(test)

    def test_a_change_is_ordered_until_it_is_made(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a"), "d1")
            orders = [
                Order("change", "st_a", Change(id="a" * 16, stops=["x", "\0"])),
                Order("change", "st_a", Change(id="b" * 16, token_ids=[1, 300, 70_000])),
                Order("change", "st_a", Change(id="c" * 16, token_ids=[2])),
            ]
            for order in orders:
                assert await store.order(order)
            assert await store.order(orders[0])
            given = await store.renew("d1", 0.0)
            assert list(dict.fromkeys(map(msgspec.json.encode, given))) == list(
                map(msgspec.json.encode, orders)
            )
            assert await store.renew("d1", 0.0) == []
            made = Edit(id="b" * 16, position=0, steered=3)
            await store.append(
                "d1", [Append("st_a", 1, [TokenBatch(0, 0, 0, [1, 300, 70_000], edits=[made])])]
            )
            await world.pass_time(LEASE_S * 1.5)
            assert await store.take("st_a", "d2") == 2
            assert await store.renew("d2", 0.0) == [orders[0], orders[2]]

        self.live(test)

    def test_how_a_stream_is_to_end_outlives_the_producer(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a"), "d1")
            assert await world.store.order(Order("stop", "st_a"))
            assert await world.store.order(Order("cancel", "st_a"))
            await world.pass_time(LEASE_S * 1.5)
            assert await world.store.take("st_a", "d2") == 2
            assert await world.store.renew("d2", 0.0) == [Order("stop", "st_a")]

        self.live(test)

    def test_a_stream_that_has_ended_takes_no_orders(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a"), "d1")
            change = Order("change", "st_a", Change(id="a" * 16, stops=["x"]))
            assert await store.order(change)
            await store.append("d1", [Append("st_a", 1, [], ENDING)])
            assert not await store.order(Order("stop", "st_a"))
            assert not await store.order(Order("change", "st_a", Change(id="b" * 16, stops=["x"])))
            # The change that was ordered before need not be made any more.
            given = await store.renew("d1", 0.0)
            assert given in ([], [change])
            with pytest.raises(StreamNotFound):
                await store.order(Order("cancel", "st_b"))

        self.live(test)

    def test_a_stream_can_be_changed_so_often(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a"), "d1")
            orders = [
                Order("change", "st_a", Change(id=f"{number:016x}", stops=["x"]))
                for number in range(MAX_CHANGES + 1)
            ]
            for order in orders[:-1]:
                assert await store.order(order)
            with pytest.raises(InvalidRequest):
                await store.order(orders[-1])
            assert await store.order(orders[0])
            assert await store.order(Order("cancel", "st_a"))

        self.live(test)

    def test_a_choice_that_has_ended_gives_nothing_twice(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a", n=2), "d1")
            await world.store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 0, [1, 2], "stop", 2)])])
            assert not any(batch.token_ids for batch in (await world.store.read("st_a", [2, 0])).batches)

        self.live(test)

    def test_tokens_after_missing_ones_are_rejected(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a"), "d1")
            later = Append("st_a", 1, [TokenBatch(0, 0, 3, [1])])
            assert await world.store.append("d1", [later]) == [Rejection("st_a", "unknown")]
            assert await world.store.create(record("st_a"), "d1") == "st_a"
            assert (await world.store.read("st_a", [0])).batches == []

        self.live(test)

    def test_streams_that_go_on_without_a_reader_are_given_to_another_producer(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a", on_disconnect="continue"), "d1")
            await store.create(record("st_b", on_disconnect="cancel"), "d1")
            assert await store.renew("d2", 0.0) == []
            await world.pass_time(LEASE_S * 1.5)
            assert await store.renew("d2", 0.0) == [Order("adopt", "st_a")]
            assert await store.take("st_a", "d2") == 2
            assert await store.renew("d2", 0.0) == []

        self.live(test)

    def test_the_same_key_gives_the_same_stream(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            assert await store.create(record("st_a", owner="ann"), "d1", Idempotency("k", "body")) == "st_a"
            assert await store.create(record("st_b", owner="ann"), "d1", Idempotency("k", "body")) == "st_a"
            assert await store.create(record("st_c", owner="bob"), "d1", Idempotency("k", "body")) == "st_c"
            with pytest.raises(IdempotencyConflict):
                await store.create(record("st_d", owner="ann"), "d1", Idempotency("k", "other body"))
            with pytest.raises(StreamNotFound):
                await store.record("st_b")

        self.live(test)

    def test_a_stream_is_its_owners(self) -> None:
        async def test(world: StoreWorld) -> None:
            await world.store.create(record("st_a", owner="ann"), "d1")
            with pytest.raises(StreamNotFound) as foreign:
                await world.store.record("st_a", "bob")
            with pytest.raises(StreamNotFound) as unknown:
                await world.store.record("st_x", "bob")
            assert foreign.value.body() == unknown.value.body()
            assert (await world.store.record("st_a")).id == "st_a"

        self.live(test)

    def test_a_stream_past_its_retention_is_expired_and_its_key_free(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a", owner="ann"), "d1", Idempotency("k", "body"))
            await store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 0, [1])], ENDING)])
            await world.pass_time(RETENTION_S * 0.5)
            assert (await store.read("st_a", [0])).ending == ENDING
            await world.pass_time(RETENTION_S * 0.75)
            for _ in range(2):
                with pytest.raises(StreamExpired):
                    await store.record("st_a", "ann")
                with pytest.raises(StreamExpired):
                    await store.read("st_a", [0])
                with pytest.raises(StreamNotFound):
                    await store.record("st_a", "bob")
                assert (
                    await store.create(record("st_b", owner="ann"), "d1", Idempotency("k", "new")) == "st_b"
                )

        self.live(test)

    def test_it_counts_the_readers_that_other_processes_have(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a"), "d1")
            await store.create(record("st_b", detach=True), "d1")
            assert await store.count_readers("st_a", "d2", 2) == 1, "the one that began it has a reader"
            assert await store.count_readers("st_b", "d2", 5) == 0, "unless it was detached"
            assert await store.count_readers("st_a", "d1", 4) == 2
            assert await store.count_readers("st_a", "d3", 1) == 6
            assert await store.count_readers("st_a", "d2", 0) == 5
            assert await store.count_readers("st_a", "d3", 1) == 4
            for stream in ("st_x", "x"):
                with pytest.raises(StreamNotFound):
                    await store.count_readers(stream, "d1", 1)

        self.live(test)

    def test_the_readers_of_a_process_that_is_gone_do_not_count(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a"), "d1")
            await store.count_readers("st_a", "d2", 3)
            await world.pass_time(LEASE_S * 0.6)
            assert await store.count_readers("st_a", "d2", 3) == 1, "which is a sign of life"
            await world.pass_time(LEASE_S * 0.6)
            assert await store.count_readers("st_a", "d3", 1) == 3
            await world.pass_time(LEASE_S * 1.5)
            assert await store.count_readers("st_a", "d4", 1) == 0
            assert await store.take("st_a", "d4") == 2
            assert await store.count_readers("st_a", "d5", 1) == 1

        self.live(test)

    def test_the_readers_of_a_stream_that_has_ended_do_not_count(self) -> None:
        async def test(world: StoreWorld) -> None:
            store = world.store
            await store.create(record("st_a"), "d1")
            await store.count_readers("st_a", "d2", 3)
            await store.append("d1", [Append("st_a", 1, [], ENDING)])
            assert await store.count_readers("st_a", "d3", 1) == 0
            await world.pass_time(RETENTION_S * 1.25)
            with pytest.raises(StreamExpired):
                await store.count_readers("st_a", "d3", 1)

        self.live(test)
