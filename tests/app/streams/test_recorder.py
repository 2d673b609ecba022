from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from app.errors import StoreUnavailable
from app.model import Model
from app.service import GenerationService
from app.settings import ModelSettings, Settings
from app.streams.memory_store import MemoryStreamStore
from app.streams.recorder import PACE_S, RETRY_S
from app.streams.store import Append, Rejection
from app.streams.store_bounds import StoreBounds
from tests.fakes.clock import FakeClock, settle
from tests.fakes.generator import FakeGenerator, FakeTokenizer
from tests.fakes.requests import request


class CountingStore(MemoryStreamStore):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(StoreBounds(), clock)
        self.calls: list[int] = []

    async def append(self, producer: str, appends: Sequence[Append]) -> list[Rejection]:
        self.calls.append(sum(len(batch.token_ids) for append in appends for batch in append.batches))
        return await super().append(producer, appends)


def test_calls_are_paced_and_take_everything_that_came_meanwhile() -> None:
    async def main() -> None:
        clock = FakeClock()
        store, generator = CountingStore(clock), FakeGenerator(8)
        model = Model(ModelSettings(name="letters"), FakeTokenizer(), generator)
        service = GenerationService(Settings(), {"letters": model}, store, ingress="i1", clock=clock)
        running = asyncio.ensure_future(service.run())
        await service.start(request())
        await clock.advance(PACE_S)
        store.calls.clear()
        generator.generations[0].say("a")
        await settle()
        assert store.calls == [1], "what comes after a silence is written at once"
        for letter in "bcd":
            generator.generations[0].say(letter)
            await settle()
        assert store.calls == [1]
        await clock.advance(PACE_S)
        assert store.calls == [1, 3]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


class FailingStore(CountingStore):
    """Does what it is called for, and then does not say so."""

    fails = False

    async def append(self, producer: str, appends: Sequence[Append]) -> list[Rejection]:
        refusals = await super().append(producer, appends)
        if self.fails:
            raise StoreUnavailable("The answer is lost.")
        return refusals


class World:
    """A service with a stream store, whose time passes by hand."""

    def __init__(self, store_class: type[CountingStore]) -> None:
        self.clock = FakeClock()
        self.store, self.generator = store_class(self.clock), FakeGenerator(8)
        model = Model(ModelSettings(name="letters"), FakeTokenizer(), self.generator)
        self.service = GenerationService(
            Settings(), {"letters": model}, self.store, ingress="i1", clock=self.clock
        )

    async def logged(self, stream: str, choices: int = 1) -> list[tuple[int, str, str | None]]:
        """What the store has of each choice, once the recorder had its turn."""
        await self.clock.advance(RETRY_S)
        await self.clock.advance(PACE_S)
        batches = (await self.store.read(stream, [0] * choices)).batches
        return [(batch.choice, "".join(map(chr, batch.token_ids)), batch.finish) for batch in batches]


@asynccontextmanager
async def running_world(store_class: type[CountingStore] = CountingStore) -> AsyncIterator[World]:
    world = World(store_class)
    running = asyncio.ensure_future(world.service.run())
    yield world
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_each_choice_is_recorded_as_far_as_it_is() -> None:
    async def main() -> None:
        async with running_world() as world:
            stream = await world.service.start(request(n=2))
            generation = world.generator.generations[0]
            generation.say("ab", choice=1)
            assert await world.logged(stream.id, 2) == [(1, "ab", None)]
            generation.say("x", choice=0, finish="length")
            generation.say("c", choice=1)
            assert await world.logged(stream.id, 2) == [(0, "x", "length"), (1, "abc", None)]
            assert sum(world.store.calls) == 4, "no token is written twice"

    asyncio.run(main())


def test_what_was_written_without_an_answer_is_written_again_and_counts_once() -> None:
    async def main() -> None:
        async with running_world(FailingStore) as world:
            store = world.store
            assert isinstance(store, FailingStore)
            stream = await world.service.start(request())
            store.fails = True
            world.generator.generations[0].say("ab")
            assert await world.logged(stream.id) == [(0, "ab", None)]
            store.fails = False
            world.generator.generations[0].say("c", finish="length")
            assert await world.logged(stream.id) == [(0, "abc", "length")]
            assert (await store.read(stream.id, [0])).ending is not None

    asyncio.run(main())


def test_a_log_that_has_lost_its_memory_is_told_everything_again() -> None:
    async def main() -> None:
        async with running_world() as world:
            stream = await world.service.start(request(n=2))
            generation = world.generator.generations[0]
            generation.say("ab", choice=0, finish="length")
            generation.say("c", choice=1)
            await world.logged(stream.id, 2)
            world.store._forget(stream.id)
            generation.say("d", choice=1)
            assert await world.logged(stream.id, 2) == [(0, "ab", "length"), (1, "cd", None)]

    asyncio.run(main())
