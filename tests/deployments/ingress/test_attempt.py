"""Generator client and server with a real link between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from app.errors import GeneratorUnavailable, InternalError, ServiceError
from deployments.generator.server import GeneratorServer
from deployments.ingress.generators import GeneratorClient
from deployments.ingress.replica_links import ReplicaLinks
from deployments.ingress.replicas import ReplicaDirectory
from tests.fakes.job_loop import FakeJobLoop
from tests.fakes.jobs import ACCEPT_TIMEOUT_S, INGRESS, SILENCE_TIMEOUT_S, Sink, job
from tests.fakes.real_time import until

HOST = "127.0.0.1"


class World:
    """A replica "a", and a client that is linked to it."""

    def __init__(self) -> None:
        self.server = GeneratorServer(max_jobs=8)
        self.engine = FakeJobLoop(self.server)
        self.directory = ReplicaDirectory()
        self.links = ReplicaLinks(self.directory, lambda _: self.server.link.listen(HOST))
        self.client = GeneratorClient(
            self.links,
            self.directory,
            ingress=INGRESS,
            sequences_per_replica=8,
            accept_timeout_s=ACCEPT_TIMEOUT_S,
            silence_timeout_s=SILENCE_TIMEOUT_S,
        )

    def break_link(self) -> None:
        for connection in list(self.server.link.connections):
            connection.abort()


def live(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with _world() as world:
            await test(world)

    asyncio.run(main())


@asynccontextmanager
async def _world() -> AsyncIterator[World]:
    world = World()
    world.links.start()
    world.client.start()
    world.directory.publish(["a"])
    try:
        yield world
    finally:
        await world.client.close()
        await world.links.close()
        await world.server.close()


def test_a_job_and_its_tokens_travel_on_the_link() -> None:
    async def test(world: World) -> None:
        sink = Sink()
        async with world.client.open(job(1), sink) as generation:
            assert generation.replica == "a" and world.server.jobs == 1
            world.engine.step(2)
            world.engine.step(finish="stop")
            await until(lambda: sink.ids == [0, 1, 2])
        await until(lambda: world.server.jobs == 0)

    live(test)


def test_leaving_a_job_ends_it_and_no_other() -> None:
    async def test(world: World) -> None:
        kept = Sink()
        async with world.client.open(job(1), kept):
            for key in range(2, 20):
                leaving = asyncio.create_task(_use(world, key))
                for _ in range(key):
                    await asyncio.sleep(0)
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
            await until(lambda: list(world.engine.jobs) == [(INGRESS, 1)])
            world.engine.step()
            await until(lambda: kept.ids == [0])
            assert kept.losses == 0 and world.server.jobs == 1

    live(test)


async def _use(world: World, key: int) -> None:
    async with world.client.open(job(key), Sink()):
        await asyncio.Event().wait()


def test_jobs_are_lost_with_the_link_and_new_ones_wait_for_the_next() -> None:
    async def test(world: World) -> None:
        sink = Sink()
        async with world.client.open(job(1), sink):
            world.break_link()
            await until(lambda: sink.losses == 1 and world.server.jobs == 0)
            assert not world.engine.jobs
            async with world.client.open(job(2), sink) as generation:
                assert generation.replica == "a"

    live(test)


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (GeneratorUnavailable("it is stopping", retry_after_s=1), GeneratorUnavailable),
        (ZeroDivisionError("a bug"), InternalError),
    ],
)
def test_what_the_engine_raises(
    refusal: Exception, expected: type[ServiceError], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(world: World) -> None:
        world.engine.refusal = refusal
        with pytest.raises(expected) as raised:
            async with world.client.open(job(1), Sink()):
                pass
        assert "bug" not in raised.value.message and world.server.jobs == 0

    live(test)
