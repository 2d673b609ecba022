"""A wake-up is neither lost nor counted twice."""

from __future__ import annotations

import asyncio

import pytest

from app.wakeup import Wakeup


async def has_ended(task: asyncio.Task[None]) -> bool:
    for _ in range(3):
        await asyncio.sleep(0)
    return task.done()


def test_a_call_wakes_the_waiter() -> None:
    async def main() -> None:
        wakeup = Wakeup()
        waiting = asyncio.create_task(wakeup.wait())
        assert not await has_ended(waiting)
        wakeup()
        assert await has_ended(waiting)

    asyncio.run(main())


def test_calls_before_the_wait_count_as_one() -> None:
    async def main() -> None:
        wakeup = Wakeup()
        wakeup()
        wakeup()
        await wakeup.wait()
        waiting = asyncio.create_task(wakeup.wait())
        assert not await has_ended(waiting)
        waiting.cancel()

    asyncio.run(main())


def test_a_cancelled_wait_uses_no_call() -> None:
    async def main() -> None:
        wakeup = Wakeup()
        waiting = asyncio.create_task(wakeup.wait())
        await asyncio.sleep(0)
        wakeup()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await wakeup.wait()

    asyncio.run(main())
