"""The store in Redis without a server: what a caller sees then. With one it is tested in tests/integration."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
from redis.asyncio import Redis

from app.errors import StoreUnavailable
from app.schema.tokens import TokenBatch
from app.streams.redis.scripts import Scripts
from app.streams.redis.store import RedisStreamStore
from app.streams.store import Append, Order
from app.streams.store_bounds import StoreBounds
from tests.fakes.requests import record

CALLS: dict[str, Callable[[RedisStreamStore], Awaitable[object]]] = {
    "create": lambda store: store.create(record("st_a"), "d1"),
    "append": lambda store: store.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 0, [1])])]),
    "renew": lambda store: store.renew("d1", 5.0),
    "record": lambda store: store.record("st_a"),
    "read": lambda store: store.read("st_a", [0], 5.0),
    "take": lambda store: store.take("st_a", "d1"),
    "count_readers": lambda store: store.count_readers("st_a", "d1", 1),
    "order": lambda store: store.order(Order("cancel", "st_a")),
}


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The address of a server that is not there: the port is taken, and no server listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_every_call_fails_soon_without_a_server(
    call: Callable[[RedisStreamStore], Awaitable[object]], nowhere: str
) -> None:
    async def main() -> None:
        store = RedisStreamStore(nowhere, StoreBounds())
        async with asyncio.timeout(4):
            with pytest.raises(StoreUnavailable) as unavailable:
                await call(store)
        assert nowhere.removeprefix("redis://") not in unavailable.value.message
        await store.close()

    asyncio.run(main())


def test_a_store_that_is_closed_says_so(nowhere: str) -> None:
    async def main() -> None:
        store = RedisStreamStore(nowhere, StoreBounds())
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.record("st_a")

    asyncio.run(main())


@pytest.mark.parametrize("prefix", ["", "it's", "a b", "x\n"])
def test_a_prefix_cannot_break_out_of_the_scripts(prefix: str) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        RedisStreamStore("redis://localhost", StoreBounds(), prefix=prefix)


def shas(prefix: str = "streams:", bounds: StoreBounds = StoreBounds()) -> dict[str, str]:  # noqa: B008 - frozen
    scripts = Scripts(Redis(), prefix, bounds, 60.0)
    return {name: script.sha for name, script in scripts.by_name.items()}


def test_scripts_are_named_by_their_text() -> None:
    first = shas()
    assert first["append"] == shas()["append"]
    assert first["append"] != shas("other:")["append"]
    assert first["append"] != shas(bounds=StoreBounds(lease_s=1.5))["append"]
    assert len(set(first.values())) == len(first)
    assert first.keys() == CALLS.keys()
