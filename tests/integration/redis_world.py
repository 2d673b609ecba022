"""The world of a store in Redis: processes that share streams on a real server, under a prefix of their own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from app.streams.redis.store import RedisStreamStore
from app.streams.store_bounds import StoreBounds
from tests.contracts.stream_store import LEASE_S, RETENTION_S
from tests.integration.redis_server import RedisServer

BOUNDS = StoreBounds(max_streams=1000, retention_s=RETENTION_S, max_age_s=100.0, lease_s=LEASE_S)
prefixes = (f"test{number}:" for number in itertools.count())


class RedisWorld:
    """Stores of several processes that share their streams, each with connections of its own; `store` is the first."""

    def __init__(self, server: RedisServer, bounds: StoreBounds = BOUNDS) -> None:
        self.server = server
        self.prefix = next(prefixes)
        self._bounds = bounds
        self._stores: list[RedisStreamStore] = []
        self.store = self.another_process()
        self.redis = Redis.from_url(server.url, protocol=2)

    def another_process(self) -> RedisStreamStore:
        store = RedisStreamStore(self.server.url, self._bounds, prefix=self.prefix, tombstone_s=30.0)
        self._stores.append(store)
        return store

    async def pass_time(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    async def keys(self) -> set[str]:
        return {
            key.decode().removeprefix(self.prefix) async for key in self.redis.scan_iter(f"{self.prefix}*")
        }

    async def scripts_run(self) -> int:
        statistics: dict[str, Any] = await self.redis.info("commandstats")
        return int(statistics["cmdstat_evalsha"]["calls"])

    async def close(self) -> None:
        for store in self._stores:
            await store.close()
        await self.redis.aclose()


@asynccontextmanager
async def world_on(server: RedisServer, **bounds: Any) -> AsyncIterator[RedisWorld]:
    fields = {name: getattr(BOUNDS, name) for name in StoreBounds.__struct_fields__} | bounds
    world = RedisWorld(server, StoreBounds(**fields))
    try:
        yield world
    finally:
        await world.close()
