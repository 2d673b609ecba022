"""The log in Redis without a server: what a caller sees then. With one it is tested in tests/integration."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest

from app.errors import LogUnavailable
from app.schema.tokens import TokenBatch
from app.streams.log import Append, Order
from app.streams.memory_log import LogBounds
from app.streams.redis_log import RedisStreamLog
from app.streams.redis_scripts import Scripts
from tests.fakes.requests import record

CALLS: dict[str, Callable[[RedisStreamLog], Awaitable[object]]] = {
    "create": lambda log: log.create(record("st_a"), "d1"),
    "append": lambda log: log.append("d1", [Append("st_a", 1, [TokenBatch(0, 0, 0, [1])])]),
    "attend": lambda log: log.attend("d1", 5.0),
    "record": lambda log: log.record("st_a"),
    "read": lambda log: log.read("st_a", [0], 5.0),
    "take": lambda log: log.take("st_a", "d1"),
    "count_readers": lambda log: log.count_readers("st_a", "d1", 1),
    "order": lambda log: log.order(Order("cancel", "st_a")),
}


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The address of a server that is not there: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_every_call_fails_soon_without_a_server(
    call: Callable[[RedisStreamLog], Awaitable[object]], nowhere: str
) -> None:
    async def main() -> None:
        log = RedisStreamLog(nowhere, LogBounds())
        async with asyncio.timeout(4):
            with pytest.raises(LogUnavailable) as unavailable:
                await call(log)
        assert nowhere.removeprefix("redis://") not in unavailable.value.message
        await log.close()

    asyncio.run(main())


def test_a_log_that_is_closed_says_so(nowhere: str) -> None:
    async def main() -> None:
        log = RedisStreamLog(nowhere, LogBounds())
        await log.close()
        await log.close()
        with pytest.raises(LogUnavailable, match="closed"):
            await log.record("st_a")

    asyncio.run(main())


@pytest.mark.parametrize("prefix", ["", "it's", "a b", "x\n"])
def test_a_prefix_cannot_break_out_of_the_scripts(prefix: str) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        RedisStreamLog("redis://localhost", LogBounds(), prefix=prefix)


def test_scripts_are_named_by_their_text() -> None:
    first = Scripts("streams:", LogBounds(), 60.0)
    assert first.append.sha == Scripts("streams:", LogBounds(), 60.0).append.sha
    assert first.append.sha != Scripts("other:", LogBounds(), 60.0).append.sha
    assert first.append.sha != Scripts("streams:", LogBounds(lease_s=1.5), 60.0).append.sha
    assert len({script.sha for script in vars(first).values()}) == len(vars(first))
