"""The stream store behind calls: the whole contract, through the messages that cross between processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.errors import StoreUnavailable
from app.settings import Settings
from app.streams.memory_store import MemoryStreamStore
from app.streams.store_bounds import StoreBounds
from deployments.ingress.store_client import StreamStoreClient
from deployments.links.link import LinkBroken, LinkBusy, LinkFailed
from deployments.stream_store.deployment import StreamStore
from tests.contracts.stream_store import LEASE_S, RETENTION_S, StreamStoreContract
from tests.fakes.clock import FakeClock
from tests.fakes.link import LocalLink
from tests.fakes.requests import record


class CalledWorld:
    def __init__(self) -> None:
        self.clock = FakeClock()
        bounds = StoreBounds(retention_s=RETENTION_S, lease_s=LEASE_S)
        deployment = StreamStore(bounds, list)
        deployment._store = MemoryStreamStore(bounds, self.clock)
        self.link = LocalLink(deployment.call)
        self.store = StreamStoreClient.over(self.link)

    async def pass_time(self, duration_s: float) -> None:
        await self.clock.advance(duration_s)


class TestStreamStoreClient(StreamStoreContract):
    @asynccontextmanager
    async def world(self) -> AsyncIterator[CalledWorld]:
        yield CalledWorld()


def test_a_store_that_cannot_be_reached_is_unavailable() -> None:
    async def main() -> None:
        world = CalledWorld()
        for failure in (
            LinkBroken("gone"),
            TimeoutError(),
            LinkBusy(),
            LinkFailed(),
            ValueError("secret text"),
        ):
            world.link.failures.append(failure)
            with pytest.raises(StoreUnavailable) as raised:
                await world.store.create(record("st_a"), "d1")
            assert "secret" not in raised.value.message

    asyncio.run(main())


def test_the_bounds_come_from_the_settings() -> None:
    settings = Settings.model_validate({"streams": {"retention_s": 5, "lease_s": 2, "max_streams": 7}})
    bounds = StoreBounds.from_settings(settings)
    assert (bounds.retention_s, bounds.lease_s, bounds.max_streams) == (5, 2, 7)
    assert bounds.max_age_s > settings.limits.request_timeout_s
