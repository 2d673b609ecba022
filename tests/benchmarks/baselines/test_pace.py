"""The baselines' source of tokens keeps an absolute schedule."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.baselines.events import text_events
from benchmarks.baselines.pace import TOKEN, paced_tokens
from tests.fakes.loop import run


def test_tokens_come_at_their_own_moments_and_a_late_consumer_shifts_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen_s = []
        async for piece in paced_tokens(5, 0.02, 0.03):
            assert piece == TOKEN
            seen_s.append(loop.time())
            if len(seen_s) == 1:
                await asyncio.sleep(0.07)
        assert seen_s == pytest.approx([0.02, 0.09, 0.09, 0.11, 0.14])

    run(main())


def test_events() -> None:
    async def main() -> list[str]:
        return [event async for event in text_events(paced_tokens(2, 0, 0))]

    assert asyncio.run(main()) == [f"data: {TOKEN}\n\n", f"data: {TOKEN}\n\n", "data: [DONE]\n\n"]
