"""The application over fakes on a port of its own, in a thread: for programs and clients that need a real server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn

from app.asgi.application import build_app
from app.clock import SystemClock
from app.model import Model
from app.ports import TokenSink
from app.schema.tokens import Job
from app.service import GenerationService
from app.settings import Settings
from tests.fakes.generator import FakeGeneration, FakeGenerator, FakeTokenizer
from tests.fakes.store import memory_store

STEP_S = 0.002
ENDLESS = "endless"
"""A model whose answers never end by themselves."""
BROKEN = "broken"
"""A model whose answers end with an error after their first words."""
ANSWER = "It is what it is."


class TalkingGenerator(FakeGenerator):
    """Answers every job by itself, a letter every `STEP_S`."""

    def __init__(self, name: str) -> None:
        super().__init__(capacity=100)
        self.name = name
        self.prompts: list[str] = []

    @asynccontextmanager
    async def open(self, job: Job, sink: TokenSink) -> AsyncIterator[FakeGeneration]:
        self.prompts.append("".join(map(chr, job.prompt)))
        async with super().open(job, sink) as generation:
            talking = asyncio.ensure_future(self._talk(generation))
            try:
                yield generation
            finally:
                talking.cancel()

    async def _talk(self, generation: FakeGeneration) -> None:
        while True:
            for letter in ANSWER:
                generation.say(letter)
                await asyncio.sleep(STEP_S)
            if self.name == BROKEN:
                generation.say("", finish="error")
            elif self.name != ENDLESS:
                generation.say("$", finish="stop")  # the end token, whose text does not leave


class LiveServer:
    """A server that runs in its own thread. `generators` may be looked at from outside."""

    def __init__(self, keys_file: Path | None) -> None:
        names = ["letters", ENDLESS, BROKEN]
        settings = Settings.model_validate(
            {
                "models": [{"name": name} for name in names],
                "auth": {"keys_file": str(keys_file) if keys_file else None},
            }
        )
        self.generators = {name: TalkingGenerator(name) for name in names}
        models = {
            model.name: Model(model, FakeTokenizer(model.name, 100_000), self.generators[model.name])
            for model in settings.models
        }
        store = memory_store(SystemClock())
        self.service = GenerationService(settings, models, store, ingress="i1", clock=SystemClock())
        config = uvicorn.Config(build_app(self.service), lifespan="off", log_config=None, access_log=False)
        self.server = uvicorn.Server(config)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.started = threading.Event()

    @property
    def running(self) -> int:
        """Jobs that the generators work on."""
        return sum(len(generator.running) for generator in self.generators.values())

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        await self.service.load()
        working = asyncio.ensure_future(self.service.run())
        serving = asyncio.ensure_future(self.server.serve(sockets=[self.listener]))
        while not self.server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        self.started.set()
        await serving
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


@contextmanager
def live_server(keys_file: Path | None = None) -> Iterator[LiveServer]:
    server = LiveServer(keys_file)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.started.wait(10)
        yield server
    finally:
        server.server.should_exit = server.server.force_exit = True
        thread.join(10)
        assert not thread.is_alive()
