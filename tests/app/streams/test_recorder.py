from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.model import Model
from app.service import GenerationService
from app.settings import ModelSettings, Settings
from app.streams.log import Append, Refusal
from app.streams.memory_log import LogBounds, MemoryStreamLog
from app.streams.recorder import PACE_S
from tests.fakes.clock import FakeClock, settle
from tests.fakes.generator import FakeGenerator, FakeTokenizer
from tests.fakes.requests import request


class CountingLog(MemoryStreamLog):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(LogBounds(), clock)
        self.calls: list[int] = []

    async def append(self, driver: str, appends: Sequence[Append]) -> list[Refusal]:
        self.calls.append(sum(len(batch.token_ids) for append in appends for batch in append.batches))
        return await super().append(driver, appends)


def test_calls_are_paced_and_take_everything_that_came_meanwhile() -> None:
    async def main() -> None:
        clock = FakeClock()
        log, generator = CountingLog(clock), FakeGenerator(8)
        model = Model(ModelSettings(name="letters"), FakeTokenizer(), generator)
        service = GenerationService(Settings(), {"letters": model}, log, ingress="i1", clock=clock)
        running = asyncio.ensure_future(service.run())
        await service.start(request())
        await clock.advance(PACE_S)
        log.calls.clear()
        generator.generations[0].say("a")
        await settle()
        assert log.calls == [1], "what comes after a silence is written at once"
        for letter in "bcd":
            generator.generations[0].say(letter)
            await settle()
        assert log.calls == [1]
        await clock.advance(PACE_S)
        assert log.calls == [1, 3]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
