"""Ingress processes, a stream store and generator replicas in one event loop: everything but Ray is real, and replicas die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from app.clock import SystemClock
from app.model import Model
from app.schema.frames import Delta, Frame
from app.service import GenerationService
from app.settings import ModelSettings, Settings
from app.streams.memory_store import MemoryStreamStore
from app.streams.store_bounds import StoreBounds
from app.streams.stream import Stream
from deployments.engine.config import EngineConfig
from deployments.engine.loop import EngineLoop
from deployments.engine.protocol import Outputs
from deployments.engine.simulated import SimulatedEngine
from deployments.ingress.generators import GeneratorClient
from tests.fakes.generator import FakeTokenizer
from tests.fakes.links import FakeLinks

STEP_S = 0.002
POISON = 666


class MortalEngine(SimulatedEngine):
    """Calls `dies` and makes nothing more when it is to compute token number `kills_at` of a job with the seed `POISON`."""

    def __init__(self, kills_at: int, dies: Callable[[], object]) -> None:
        super().__init__(
            EngineConfig(), vocab_size=128, token_ids=range(97, 123), first_token_s=STEP_S, step_s=STEP_S
        )
        self._kills_at = kills_at
        self._dies = dies
        self._dead = False

    def step(self) -> Outputs:
        sequences = [sequence for stream in self._streams.values() for sequence in stream.sequences]
        poisoned = any(
            sequence.sampling.seed == POISON and sequence.position >= self._kills_at for sequence in sequences
        )
        if poisoned and not self._dead:
            self._dead = True
            self._dies()
        return {} if self._dead else super().step()


class Graph:
    """Two ingress processes, a stream store, and the generator `replicas`.

    A job with the seed `POISON` kills each replica that computes its token number `kills_at`.
    """

    def __init__(self, replicas: Sequence[str] = ("a", "b"), *, kills_at: int = 0) -> None:
        self.calls = FakeLinks()
        self.killed: list[str] = []
        self._kills_at = kills_at
        self.store = MemoryStreamStore(StoreBounds(lease_s=0.5), SystemClock())
        self.loops = {name: self._replica(name) for name in replicas}
        self.clients: list[GeneratorClient] = []
        self.services = [self._ingress(name) for name in ("i1", "i2")]
        self.running = [asyncio.ensure_future(service.run()) for service in self.services]

    @property
    def worker(self) -> str:
        """The one replica that has a job."""
        [name] = [name for name, replica in self.calls.replicas.items() if replica.server.jobs]
        return name

    def kill_worker(self) -> None:
        """Kills the one replica that has a job."""
        self._kill(self.worker)

    def use(self, *names: str) -> None:
        """New jobs go to these replicas only."""
        for name in self.calls.replicas:
            self.calls.directory.mark(name, silent=name not in names)

    async def close(self) -> None:
        for service in self.running:
            service.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        for client in self.clients:
            await client.close()
        await self.calls.close()
        for loop in self.loops.values():
            loop.stop()

    def _replica(self, name: str) -> EngineLoop:
        replica = self.calls.add(name)
        dies = partial(asyncio.get_running_loop().call_soon_threadsafe, self._kill, name)
        engine = MortalEngine(self._kills_at, dies)
        loop = EngineLoop(engine, replica.server.deliver)
        loop.start()
        replica.server.serve(loop)
        return loop

    def _kill(self, name: str) -> None:
        self.killed.append(name)
        self.calls.kill(name, ConnectionError("it is gone"))
        self.loops.pop(name).stop()

    def _ingress(self, name: str) -> GenerationService:
        client = GeneratorClient(
            self.calls,
            self.calls.directory,
            ingress=name,
            sequences_per_replica=32,
            accept_timeout_s=3.0,
            silence_timeout_s=3.0,
        )
        client.start()
        self.clients.append(client)
        model = Model(ModelSettings(name="letters"), FakeTokenizer(max_model_len_tokens=2000), client)
        return GenerationService(Settings(), {"letters": model}, self.store, ingress=name)


@asynccontextmanager
async def graph(replicas: Sequence[str] = ("a", "b"), *, kills_at: int = 0) -> AsyncIterator[Graph]:
    made = Graph(replicas, kills_at=kills_at)
    try:
        yield made
    finally:
        await made.close()


async def reached(stream: Stream, tokens: int) -> None:
    """Returns when every choice has so many tokens, or has ended."""
    frames = stream.readers.join().frames()
    async for _ in frames:
        if all(choice.finish_reason or len(choice.token_ids) >= tokens for choice in stream.choices):
            break
    await frames.aclose()


def text(frames: list[Frame], index: int) -> str:
    return "".join(frame.text for frame in frames if isinstance(frame, Delta) and frame.index == index)
