"""The store in Redis, on a real server: the contract, and what holds when the server, a connection or a caller fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import Overloaded, StoreUnavailable, StreamExpired, StreamNotFound
from app.schema.tokens import TokenBatch
from app.streams.redis.store import RedisStreamStore
from app.streams.store import Append, Idempotency, Order, Rejection
from tests.contracts.stream_store import ENDING, StreamStoreContract
from tests.fakes.requests import record
from tests.integration.redis_server import RedisServer
from tests.integration.redis_world import RedisWorld, world_on


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    try:
        yield server
    finally:
        server.kill()


class TestRedisStreamStore(StreamStoreContract):
    @pytest.fixture(autouse=True)
    def _on(self, server: RedisServer) -> None:
        self.server = server

    def world(self) -> Any:
        return world_on(self.server)


def token(position: int, *token_ids: int) -> TokenBatch:
    return TokenBatch(0, 0, position, list(token_ids))


async def tokens_of(store: RedisStreamStore, stream: str) -> list[int]:
    return [token_id for batch in (await store.read(stream, [0])).batches for token_id in batch.token_ids]


async def write(store: RedisStreamStore, producer: str, stream: str, count: int, pause_s: float = 0.0) -> int:
    """Appends the tokens 0 to `count`, one by one, each until it is confirmed. Returns how often the store was unavailable."""
    failures = 0
    for position in range(count):
        while True:
            try:
                assert await store.append(producer, [Append(stream, 1, [token(position, position)])]) == []
                break
            except StoreUnavailable:
                failures += 1
                await asyncio.sleep(0.02)
        await asyncio.sleep(pause_s)
    while True:
        try:
            await store.append(producer, [Append(stream, 1, [], ENDING)])
            return failures
        except StoreUnavailable:
            failures += 1


async def follow(store: RedisStreamStore, stream: str) -> list[int]:
    """What a reader sees of a stream from its start to its end."""
    seen: list[int] = []
    while True:
        try:
            excerpt = await store.read(stream, [len(seen)], 5.0)
        except StoreUnavailable:
            await asyncio.sleep(0.02)
            continue
        for batch in excerpt.batches:
            assert batch.position == len(seen)
            seen.extend(batch.token_ids)
        if excerpt.ending is not None:
            return seen


# The server fails.


def test_no_token_is_lost_or_repeated_when_the_server_is_killed_in_mid_append(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            other = world.another_process()
            await world.store.create(record("st_a"), "d1")
            reading = asyncio.ensure_future(follow(other, "st_a"))
            writing = asyncio.ensure_future(write(world.store, "d1", "st_a", 400, 0.002))
            for _ in range(2):
                await asyncio.sleep(0.3)
                assert not writing.done()
                server.kill()
                with pytest.raises(StoreUnavailable):
                    await world.store.record("st_a")
                server.start()
            async with asyncio.timeout(20):
                assert await writing > 0
            assert await tokens_of(world.store, "st_a") == list(range(400))
            async with asyncio.timeout(5):
                assert await reading == list(range(400))

    asyncio.run(main())


def test_producers_keep_their_leases_over_a_restart_of_the_server(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server, lease_s=0.6) as world:
            await world.store.create(record("st_a", on_disconnect="continue"), "d1")
            server.kill()
            await asyncio.sleep(0.7)
            server.start()
            assert not (await world.store.read("st_a", [0])).orphaned
            assert await world.store.renew("d2", 0.0) == []
            assert await world.store.take("st_a", "d2") is None
            await asyncio.sleep(0.7)
            assert await world.store.take("st_a", "d2") == 2

    asyncio.run(main())


def test_a_server_that_hangs_is_unavailable_soon(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            await world.store.create(record("st_a"), "d1")
            server.stand_still()
            began_s = time.monotonic()
            try:
                with pytest.raises(StoreUnavailable):
                    await world.store.append("d1", [Append("st_a", 1, [token(0, 1)])])
            finally:
                server.go_on()
            assert time.monotonic() - began_s < 4
            assert await world.store.append("d1", [Append("st_a", 1, [token(0, 1)])]) == []
            assert await tokens_of(world.store, "st_a") == [1]

    asyncio.run(main())


def test_what_the_server_lost_is_appended_again(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            store = world.store
            await store.create(record("st_a"), "d1")
            await store.append("d1", [Append("st_a", 1, [token(0, 1, 2, 3)])])
            await world.redis.delete(f"{world.prefix}t:st_a:0")
            assert await store.append("d1", [Append("st_a", 1, [token(3, 4)], ENDING)]) == [
                Rejection("st_a", "unknown")
            ]
            assert (await store.read("st_a", [0])).ending is None
            assert await store.create(record("st_a"), "d1") == "st_a"
            assert await store.append("d1", [Append("st_a", 1, [token(0, 1, 2, 3, 4)], ENDING)]) == []
            assert await tokens_of(store, "st_a") == [1, 2, 3, 4]

    asyncio.run(main())


def test_scripts_that_the_server_forgot_are_sent_again(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            await world.store.create(record("st_a"), "d1")
            await world.redis.script_flush()
            await world.store.append("d1", [Append("st_a", 1, [token(0, 1)])])
            assert await tokens_of(world.store, "st_a") == [1]

    asyncio.run(main())


# A connection fails.


async def kill_connections(world: RedisWorld) -> int:
    """Kills all but the one that says so; returns how many."""
    killed = 0
    for kind in ("normal", "pubsub"):
        killed += await world.redis.client_kill_filter(_type=kind, skipme=True)
    return killed


def test_a_call_does_not_notice_that_its_connection_was_lost(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            await world.store.create(record("st_a"), "d1")
            assert await kill_connections(world) > 0
            assert await world.store.append("d1", [Append("st_a", 1, [token(0, 1)])]) == []

    asyncio.run(main())


def test_no_token_is_lost_or_repeated_when_connections_are_killed(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            other = world.another_process()
            await world.store.create(record("st_a"), "d1")
            reading = asyncio.ensure_future(follow(other, "st_a"))
            writing = asyncio.ensure_future(write(world.store, "d1", "st_a", 300, 0.001))
            kills = 0
            while not writing.done():
                await asyncio.sleep(0.1)
                kills += await kill_connections(world) > 0
            assert kills > 2
            await writing
            async with asyncio.timeout(5):
                assert await reading == list(range(300))
            assert await tokens_of(world.store, "st_a") == list(range(300))

    asyncio.run(main())


# A caller fails.


def test_calls_that_were_cut_leave_no_trace(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server, lease_s=0.5) as world:
            store = world.store
            await store.create(record("st_a", on_disconnect="continue"), "d1")
            assert await store.take("st_a", "d2") is None
            await asyncio.sleep(0.6)
            # Two connections, so that both calls reach the server.
            await asyncio.gather(store.renew("d2", 0.0), store.record("st_a"))
            server.stand_still()
            calls = [
                asyncio.ensure_future(store.create(record("st_b"), "d2", Idempotency("k", "body"))),
                asyncio.ensure_future(store.take("st_a", "d2")),
            ]
            await asyncio.sleep(0.1)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            server.go_on()
            await asyncio.sleep(0.1)
            assert (await store.read("st_a", [0])).orphaned is False
            assert await store.renew("d2", 0.0) == [Order("adopt", "st_a")]
            with pytest.raises(StreamNotFound):
                await store.record("st_b")
            assert await store.create(record("st_c"), "d2", Idempotency("k", "body")) == "st_c"
            assert (await store.read("st_a", [0])).orphaned
            assert await store.take("st_a", "d2") == 3
            for _ in range(4):
                assert await store.renew("d2", 0.0) == []
            assert not (await store.read("st_a", [0])).orphaned

    asyncio.run(main())


def test_a_stream_that_a_second_call_has_been_given_is_not_undone_but_goes_on_elsewhere(
    server: RedisServer,
) -> None:
    """The first call was cut, so its producer undoes it; the caller has come again through another process meanwhile."""

    async def main() -> None:
        async with world_on(server, lease_s=0.5) as world:
            first, second = world.store, world.another_process()
            await first.create(record("st_0"), "d1")  # the script is there, and a connection
            await second.renew("d2", 0.0)
            await asyncio.sleep(0.6)  # after a start of the server, leases hold for so long
            server.stand_still()
            call = asyncio.ensure_future(first.create(record("st_a"), "d1", Idempotency("k", "body")))
            await asyncio.sleep(0.1)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            server.go_on()
            await asyncio.sleep(0.1)
            assert await second.create(record("st_b"), "d2", Idempotency("k", "body")) == "st_a"
            assert not (await second.read("st_a", [0])).orphaned
            await first.renew("d1", 0.0)
            assert (await second.read("st_a", [0])).orphaned
            assert await second.count_readers("st_a", "d2", 1) == 0
            assert await second.take("st_a", "d2") == 2
            for _ in range(4):
                await first.renew("d1", 0.0)
            assert await second.append("d2", [Append("st_a", 2, [token(0, 7)])]) == []
            assert await tokens_of(second, "st_a") == [7]

    asyncio.run(main())


def test_orders_that_were_not_received_are_given_again(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            await world.store.create(record("st_a"), "d1")
            await world.store.order(Order("cancel", "st_a"))
            server.stand_still()
            renewing = asyncio.ensure_future(world.store.renew("d1", 0.0))
            await asyncio.sleep(0.1)
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            server.go_on()
            assert await world.store.renew("d1", 0.0) == [Order("cancel", "st_a")]
            assert await world.store.renew("d1", 0.0) == []

    asyncio.run(main())


def test_a_cancel_order_outlives_the_producer_that_it_was_for(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server, lease_s=0.4) as world:
            await world.store.create(record("st_a"), "d1")
            await asyncio.sleep(0.5)
            await world.store.order(Order("cancel", "st_a"))
            assert await world.store.take("st_a", "d2") == 2
            assert await world.store.renew("d2", 0.0) == [Order("cancel", "st_a")]

    asyncio.run(main())


# Many at a time.


def test_of_two_producers_that_race_for_a_lease_one_wins(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server, lease_s=0.4) as world:
            stores = {"d2": world.store, "d3": world.another_process()}
            names = [f"st_{number}" for number in range(20)]
            for name in names:
                await world.store.create(record(name), "d1")
            await asyncio.sleep(0.5)
            races = [(name, producer) for name in names for producer in stores]
            epochs = await asyncio.gather(
                *(stores[producer].take(name, producer) for name, producer in races)
            )
            for name in names:
                assert sorted(
                    str(epoch) for race, epoch in zip(races, epochs, strict=True) if race[0] == name
                ) == [
                    "2",
                    "None",
                ]
            for (name, producer), epoch in zip(races, epochs, strict=True):
                rejections = await stores[producer].append(producer, [Append(name, 2, [token(0, 1)])])
                assert rejections == ([] if epoch == 2 else [Rejection(name, "stale")])

    asyncio.run(main())


def test_all_appends_of_a_call_take_one_round_trip(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            names = [f"st_{number}" for number in range(96)]
            for name in names:
                await world.store.create(record(name), "d1")
            await world.store.append("d1", [])
            before = await world.scripts_run()
            assert await world.store.append("d1", [Append(name, 1, [token(0, 1)]) for name in names]) == []
            assert await world.scripts_run() == before + 1

    asyncio.run(main())


def test_200_streams_of_four_processes_keep_to_themselves(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            stores = [world.store, *(world.another_process() for _ in range(3))]
            streams = {f"st_{number}": number for number in range(200)}
            await asyncio.gather(
                *(
                    stores[number % 4].create(record(name), f"d{number % 4}")
                    for name, number in streams.items()
                )
            )
            reading = [
                asyncio.ensure_future(follow(stores[(number + 1) % 4], name))
                for name, number in streams.items()
            ]

            async def produce(which: int) -> None:
                mine = [(name, number) for name, number in streams.items() if number % 4 == which]
                for step in range(10):
                    appends = [Append(name, 1, [token(step, 1000 * number + step)]) for name, number in mine]
                    assert await stores[which].append(f"d{which}", appends) == []
                await stores[which].append(f"d{which}", [Append(name, 1, [], ENDING) for name, _ in mine])

            await asyncio.gather(*(produce(which) for which in range(4)))
            async with asyncio.timeout(10):
                seen = await asyncio.gather(*reading)
            assert seen == [[1000 * number + step for step in range(10)] for number in streams.values()]

    asyncio.run(main())


def test_readers_that_wait_neither_poll_nor_hold_a_connection_each(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            other = world.another_process()
            names = [f"st_{number}" for number in range(50)]
            for name in names:
                await world.store.create(record(name), "d1")
            reading = [asyncio.ensure_future(other.read(name, [0], 30.0)) for name in names]
            await asyncio.sleep(0.2)
            before = await world.scripts_run()
            await asyncio.sleep(0.5)
            assert await world.scripts_run() == before
            clients = await world.redis.info("clients")
            assert clients["connected_clients"] < 10
            began_s = time.monotonic()
            await world.store.append("d1", [Append(name, 1, [token(0, 7)]) for name in names])
            async with asyncio.timeout(5):
                excerpts = await asyncio.gather(*reading)
            assert time.monotonic() - began_s < 0.5
            assert all(excerpt.batches == [token(0, 7)] for excerpt in excerpts)
            assert await world.scripts_run() - before <= 5

    asyncio.run(main())


def test_a_choice_that_has_ended_does_not_keep_a_reader_of_the_others_busy(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            await world.store.create(record("st_a", n=2), "d1")
            ended = TokenBatch(0, 0, 0, [1, 2], "stop", 2)
            await world.store.append("d1", [Append("st_a", 1, [ended])])
            reading = asyncio.ensure_future(world.store.read("st_a", [2, 0], 5.0))
            await asyncio.sleep(0.1)
            assert not reading.done()
            await world.store.append("d1", [Append("st_a", 1, [TokenBatch(0, 1, 0, [3])])])
            assert (await reading).batches == [
                TokenBatch(0, 0, 2, [], "stop", 2),
                TokenBatch(0, 1, 0, [3]),
            ]

    asyncio.run(main())


# Bounds.


def test_a_full_store_gives_up_the_oldest_ended_stream_and_no_running_one(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server, max_streams=3) as world:
            store = world.store
            for name in ("st_a", "st_b", "st_c"):
                await store.create(record(name), "d1")
            with pytest.raises(Overloaded):
                await store.create(record("st_d"), "d1")
            await store.append("d1", [Append("st_b", 1, [], ENDING)])
            await asyncio.sleep(0.005)  # the server tells times apart by the millisecond
            await store.append("d1", [Append("st_a", 1, [], ENDING)])
            assert await store.create(record("st_d"), "d1") == "st_d"
            with pytest.raises(StreamExpired):
                await store.record("st_b", "ann")
            assert (await store.record("st_a")).id == "st_a"

    asyncio.run(main())


def test_tokens_are_bounded_by_what_running_streams_may_take_and_ended_ones_have(server: RedisServer) -> None:
    async def main() -> None:
        # Each stream has two tokens of prompt and may make 16.
        async with world_on(server, max_tokens=40) as world:
            store = world.store
            await store.create(record("st_a"), "d1")
            await store.create(record("st_b"), "d1")
            with pytest.raises(Overloaded):
                await store.create(record("st_c"), "d1")
            await store.append("d1", [Append("st_a", 1, [token(0, 1, 2)], ENDING)])
            assert await store.create(record("st_c"), "d1") == "st_c"
            assert (await store.record("st_a")).id == "st_a"
            assert await world.redis.get(f"{world.prefix}tokens") == str(4 + 18 + 18).encode()

    asyncio.run(main())


def test_nothing_but_tombstones_stays_of_streams_past_their_time(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server, retention_s=0.2, max_age_s=0.6, lease_s=0.3) as world:
            store = world.store
            logprobs = record("st_a", n=2, logprobs=1, on_disconnect="continue")
            await store.create(logprobs, "d1", Idempotency("k", "body"))
            await store.create(record("st_b", on_disconnect="continue"), "d1")
            await store.append(
                "d1", [Append("st_a", 1, [token(0, 1)], ENDING), Append("st_b", 1, [token(0, 1)])]
            )
            await asyncio.sleep(0.7)
            with pytest.raises(StreamExpired):
                await store.read("st_b", [0])
            assert await store.renew("d2", 0.0) == []
            await store.create(record("st_c"), "d2")
            streams = {"s:st_c", "d:st_a", "d:st_b", "d:st_c", "l:d2"}
            assert await world.keys() == streams | {"boot", "producers", "running", "sizes", "tokens"}
            assert await world.redis.hkeys(f"{world.prefix}sizes") == [b"st_c"]
            assert await world.redis.zrange(f"{world.prefix}producers", 0, -1) == [b"d2"]

    asyncio.run(main())


def test_what_waits_ends_when_the_store_is_closed(server: RedisServer) -> None:
    async def main() -> None:
        async with world_on(server) as world:
            await world.store.create(record("st_a"), "d1")
            reading = asyncio.ensure_future(world.store.read("st_a", [0], 30.0))
            await asyncio.sleep(0.1)
            await world.store.close()
            async with asyncio.timeout(2):
                with pytest.raises(StoreUnavailable):
                    await reading

    asyncio.run(main())
