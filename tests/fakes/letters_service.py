"""A service over a fake generator of letters, for tests of what is in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.model import Model
from app.service import GenerationService
from app.settings import Settings
from tests.fakes.clock import FakeClock
from tests.fakes.generator import FakeGeneration, FakeGenerator, FakeTokenizer
from tests.fakes.loop import run
from tests.fakes.store import memory_store


class LettersService:
    """The service, its generator, and a clock that stands still. The loop's own clock jumps."""

    def __init__(self, settings: Settings) -> None:
        self.clock = FakeClock()
        self.generator = FakeGenerator(capacity=100)
        model = Model(settings.models[0], FakeTokenizer(max_model_len_tokens=2000), self.generator)
        self.service = GenerationService(
            settings,
            {model_settings.name: model for model_settings in settings.models},
            memory_store(self.clock),
            ingress="i1",
            clock=self.clock,
        )

    @property
    def generation(self) -> FakeGeneration:
        """The last one that was asked for."""
        return self.generator.generations[-1]


def live(settings: Settings, test: Callable[[LettersService], Awaitable[None]]) -> None:
    """Runs `test`, after which nothing may be left: no place is held, no task runs."""

    async def main() -> None:
        letters = LettersService(settings)
        await test(letters)
        await letters.service.close()
        assert not letters.generator.running
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())
