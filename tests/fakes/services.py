"""The services of two ingress processes over fake generators, which share a stream store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from app.model import Model
from app.schema.frames import Delta, Frame
from app.service import GenerationService
from app.settings import ModelSettings, Settings
from app.streams.memory_store import MemoryStreamStore
from app.streams.reader import Reader
from app.streams.store import StreamStore
from app.streams.store_bounds import StoreBounds
from tests.fakes.clock import FakeClock, settle
from tests.fakes.generator import FakeGenerator, FakeTokenizer


class AskedStore:
    """A store that notes what is asked of it about single streams."""

    def __init__(self, store: MemoryStreamStore) -> None:
        self._store = store
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name not in ("append", "renew"):
            self.asked.append(name)
        return getattr(self._store, name)


class Ingress:
    """One service over fakes."""

    def __init__(self, name: str, clock: FakeClock, store: StreamStore, capacity: int) -> None:
        self.generator = FakeGenerator(capacity)
        self.tokenizer = FakeTokenizer()
        self.model = Model(ModelSettings(name="letters"), self.tokenizer, self.generator)
        self.service = GenerationService(
            Settings(), {"letters": self.model}, store, ingress=name, clock=clock
        )
        self.running = asyncio.ensure_future(self.service.run())

    def free(self) -> bool:
        idle = not self.generator.running and not self.generator.waking
        return idle and self.model.admission.sequences == 0

    async def die(self) -> None:
        """Stops as a process does: without a word to anybody."""
        self.running.cancel()
        await settle()


class World:
    """Two ingress processes that share a stream store. The tests that need only one use `service`, `generator` and the like."""

    def __init__(self, capacity: int = 8) -> None:
        self.clock = FakeClock()
        self.store = MemoryStreamStore(StoreBounds(lease_s=3.0, retention_s=600.0), self.clock)
        asked = AskedStore(self.store)
        self.asked = asked.asked
        self.first = Ingress("i1", self.clock, asked, capacity)
        self.second = Ingress("i2", self.clock, asked, capacity)
        self.service, self.generator = self.first.service, self.first.generator
        self.tokenizer, self.model = self.first.tokenizer, self.first.model

    def free(self) -> bool:
        return self.first.free() and self.second.free()

    async def close(self) -> None:
        for ingress in (self.first, self.second):
            await ingress.die()


def live(test: Callable[[World], Awaitable[None]], capacity: int = 8) -> None:
    """Runs `test` in a world of its own, at the end of which no stream may hold a place."""

    async def main() -> None:
        world = World(capacity)
        await test(world)
        await world.close()
        assert world.free()

    asyncio.run(main())


async def rest(reader: Reader) -> list[Frame]:
    return [frame async for frame in reader.frames()]


def text(frames: list[Frame]) -> str:
    return "".join(frame.text for frame in frames if isinstance(frame, Delta))
