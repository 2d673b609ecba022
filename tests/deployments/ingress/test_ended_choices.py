"""Choices that a stop string ends stop in the engine: everything but Ray is real, and the replica dies."""

from __future__ import annotations

import asyncio

import pytest

from app.schema.frames import End
from tests.fakes.graph import graph, reached, text
from tests.fakes.real_time import until
from tests.fakes.requests import request
from tests.fakes.services import rest


@pytest.mark.parametrize("dies", [False, True])
def test_a_choice_that_a_stop_string_ended_holds_no_place(dies: bool) -> None:
    async def main() -> None:
        async with graph() as one:
            undisturbed = await rest(
                (await one.services[0].start(request(max_tokens=400, seed=5, n=3))).readers.join()
            )
            # Three letters that only one choice has, and early.
            texts = [text(undisturbed, index) for index in range(3)]
            stop = next(
                texts[1][at : at + 3]
                for at in range(20, 100)
                if not any(texts[1][at : at + 3] in other for other in (texts[0], texts[2]))
            )
            asked = request(max_tokens=400, seed=5, n=3, stop=(stop,))
            stream = await one.services[0].start(asked)
            reading = asyncio.ensure_future(rest(stream.readers.join()))
            await until(lambda: stream.choices[1].finish_reason == "stop")
            await until(lambda: one.loops[one.worker].statistics().running == 2)
            if dies:
                one.kill_worker()
                begun = min(stream.counts[0], stream.counts[2])
                await reached(stream, begun + 5)
                assert one.loops[one.worker].statistics().running == 2
            frames = await reading
            end = frames[-1]
            assert isinstance(end, End)
            assert [choice.finish_reason for choice in end.choices] == ["length", "stop", "length"]
            shown = texts[1].index(stop)
            assert [text(frames, index) for index in range(3)] == [texts[0], texts[1][:shown], texts[2]]
            assert end.usage.completion_tokens == 800 + shown + len(stop)

    asyncio.run(main())
