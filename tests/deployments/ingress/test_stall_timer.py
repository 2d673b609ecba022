"""A call stands still when, and only when, one of its messages is not taken for long enough."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.errors import RequestTimeout
from deployments.ingress.stall_timer import StallTimer
from tests.fakes.loop import run


def live(test: Callable[[StallTimer, list[float]], Awaitable[None]]) -> None:
    """Runs `test` with a timer of 10 s and the list of when it found that the call stands still."""

    async def main() -> None:
        stalls: list[float] = []
        timer = StallTimer(10, lambda: stalls.append(asyncio.get_running_loop().time()))
        await test(timer, stalls)

    run(main())


def test_a_message_that_is_not_taken_in_time() -> None:
    async def test(timer: StallTimer, stalls: list[float]) -> None:
        with timer as stall:
            await asyncio.sleep(7)
            stall.begin()
            await asyncio.sleep(100)
            assert stalls == [pytest.approx(17, abs=0.01)]
            with pytest.raises(RequestTimeout, match="for 10 s"):
                stall.end()

    live(test)


def test_messages_that_are_taken_slowly_and_long_silence() -> None:
    async def test(timer: StallTimer, stalls: list[float]) -> None:
        with timer as stall:
            for _ in range(20):
                stall.begin()
                await asyncio.sleep(9.9)
                stall.end()
            await asyncio.sleep(1000)
        assert stalls == []

    live(test)


def test_a_call_that_is_over() -> None:
    async def test(timer: StallTimer, stalls: list[float]) -> None:
        with pytest.raises(ValueError), timer as stall:
            stall.begin()
            raise ValueError
        await asyncio.sleep(100)
        assert stalls == []

    live(test)
