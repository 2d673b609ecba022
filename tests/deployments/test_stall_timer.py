"""A call is cut when, and only when, one of its messages is not taken for long enough."""

from __future__ import annotations

import asyncio

import pytest

from deployments.stall_timer import StallTimer
from tests.fakes.loop import run


def test_a_message_that_is_not_taken_ends_the_task_after_the_time() -> None:
    async def main() -> None:
        async def call() -> None:
            with StallTimer(10) as stall:
                await asyncio.sleep(7)
                stall.begin()
                await asyncio.sleep(100)

        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(call())
        assert asyncio.get_running_loop().time() == pytest.approx(17, abs=0.01)

    run(main())


def test_messages_that_are_taken_slowly_and_long_silence_do_not() -> None:
    async def main() -> None:
        async def call() -> None:
            with StallTimer(10) as stall:
                for _ in range(20):
                    stall.begin()
                    await asyncio.sleep(9.9)
                    stall.end()
                await asyncio.sleep(1000)

        await asyncio.ensure_future(call())

    run(main())


def test_nothing_is_left_behind() -> None:
    async def main() -> None:
        with pytest.raises(ValueError), StallTimer(10) as stall:
            stall.begin()
            raise ValueError
        await asyncio.sleep(100)

    run(main())
