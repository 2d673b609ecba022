"""Pauses double up to their bound, and begin again after a success."""

from __future__ import annotations

import asyncio

from app.backoff import Backoff


def test_pauses_double_up_to_the_last() -> None:
    backoff = Backoff(0.05, 0.3)
    assert [backoff.next_s() for _ in range(5)] == [0.05, 0.1, 0.2, 0.3, 0.3]


def test_without_a_last_pause_all_are_alike() -> None:
    backoff = Backoff(0.25)
    assert [backoff.next_s() for _ in range(3)] == [0.25, 0.25, 0.25]
    assert backoff.waited_s == 0.75


def test_a_success_begins_again() -> None:
    backoff = Backoff(1.0, 4.0)
    backoff.next_s(), backoff.next_s()
    backoff.reset()
    assert (backoff.waited_s, backoff.next_s()) == (0.0, 1.0)


def test_a_pause_sleeps_as_long_as_it_says() -> None:
    slept: list[float] = []

    async def sleep(duration_s: float) -> None:
        slept.append(duration_s)

    async def main() -> None:
        backoff = Backoff(1.0, 2.0, sleep=sleep)
        await backoff.pause()
        await backoff.pause()

    asyncio.run(main())
    assert slept == [1.0, 2.0]
