"""The baselines' source of tokens keeps an absolute schedule."""

from __future__ import annotations

import asyncio

from benchmarks.baselines.events import text_events
from benchmarks.baselines.pace import TOKEN, paced_tokens


def test_tokens_come_at_their_own_moments_and_a_late_consumer_shifts_nothing() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        seen = []
        async for piece in paced_tokens(5, 0.02, 0.03):
            assert piece == TOKEN
            seen.append(loop.time() - begun_s)
            if len(seen) == 1:
                await asyncio.sleep(0.07)
        return seen

    first, second, third, fourth, fifth = asyncio.run(main())
    assert 0.019 <= first < 0.05
    assert second - first >= 0.069
    assert third - second < 0.02, "due long ago"
    assert fourth >= 0.109 and fifth >= 0.139


def test_events() -> None:
    async def main() -> list[str]:
        return [event async for event in text_events(paced_tokens(2, 0, 0))]

    assert asyncio.run(main()) == [f"data: {TOKEN}\n\n", f"data: {TOKEN}\n\n", "data: [DONE]\n\n"]
