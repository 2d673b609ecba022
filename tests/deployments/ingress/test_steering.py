"""Steering from one ingress process to the engines of another's streams: everything but Ray is real, and replicas die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.clock import SystemClock
from app.model import Model
from app.schema.frames import Delta, End, Frame
from app.service import GenerationService
from app.settings import ModelSettings, Settings
from app.streams.memory_store import MemoryStreamStore
from app.streams.store_bounds import StoreBounds
from app.streams.stream import Stream
from deployments.engine.config import EngineConfig
from deployments.engine.loop import EngineLoop
from deployments.engine.simulated import SimulatedEngine
from deployments.ingress.generators import GeneratorClient
from tests.fakes.generator import FakeTokenizer, encode
from tests.fakes.links import FakeLinks
from tests.fakes.requests import request
from tests.fakes.services import rest

STEP_S = 0.002


class World:
    """Two ingress processes, a stream store, and generator replicas "a" and "b"."""

    def __init__(self) -> None:
        self.calls = FakeLinks()
        self.store = MemoryStreamStore(StoreBounds(lease_s=0.5), SystemClock())
        self.loops = {name: self._replica(name) for name in ("a", "b")}
        self.clients: list[GeneratorClient] = []
        self.services = [self._ingress(name) for name in ("i1", "i2")]
        self.running = [asyncio.ensure_future(service.run()) for service in self.services]

    def kill_worker(self) -> None:
        """Kills the one replica that has a job."""
        [name] = [name for name, replica in self.calls.replicas.items() if replica.server.jobs]
        self.calls.kill(name, ConnectionError("it is gone"))
        self.loops.pop(name).stop()

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
        engine = SimulatedEngine(
            EngineConfig(), vocab_size=128, token_ids=range(97, 123), first_token_s=STEP_S, step_s=STEP_S
        )
        loop = EngineLoop(engine, replica.server.deliver)
        loop.start()
        replica.server.serve(loop)
        return loop

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
async def world() -> AsyncIterator[World]:
    made = World()
    try:
        yield made
    finally:
        await made.close()


async def reached(stream: Stream, tokens: int) -> None:
    """Returns when every choice has so many tokens."""
    frames = stream.readers.join().frames()
    async for _ in frames:
        if min(stream.counts) >= tokens:
            break
    await frames.aclose()


def text(frames: list[Frame], index: int) -> str:
    return "".join(frame.text for frame in frames if isinstance(frame, Delta) and frame.index == index)


def put_in(untouched: str, frames: list[Frame], index: int) -> str:
    """What the stream says into which text was put: the engine's tokens depend on their place alone."""
    for frame in frames:
        if isinstance(frame, Delta) and frame.steered and frame.index == index:
            end = int(frame.cursor.split(".")[index])
            untouched = untouched[: end - frame.tokens] + frame.text + untouched[end:]
    return untouched


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("dies", [False, True])
def test_text_is_put_in_once_wherever_it_comes_from_and_whoever_dies(n: int, which: int, dies: bool) -> None:
    asked = request(max_tokens=400, seed=5, n=n)

    async def main() -> None:
        async with world() as one:
            untouched = await rest((await one.services[0].start(asked)).readers.join())
            stream = await one.services[0].start(asked)
            here = asyncio.ensure_future(rest(stream.readers.join()))
            elsewhere = asyncio.ensure_future(rest(await one.services[1].resume(stream.id)))
            await reached(stream, 30)
            for piece in ("<one>", "<two>"):
                await one.services[which].steer(stream.id, piece)
                if piece == "<one>" and dies:
                    one.kill_worker()
            for frames in (await here, await elsewhere):
                end = frames[-1]
                assert isinstance(end, End) and end.usage.completion_tokens == 400 * n
                for index in range(n):
                    steered = [
                        f.text for f in frames if isinstance(f, Delta) and f.steered and f.index == index
                    ]
                    assert steered == ["<one>", "<two>"]
                    assert text(frames, index) == put_in(text(untouched, index), frames, index)
            ids = stream.choices[0].token_ids
            assert bytes(encode("<one>")) in bytes(ids) and bytes(encode("<two>")) in bytes(ids)

    asyncio.run(main())
