"""Waiting for the first replica, by a clock that jumps."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import GeneratorUnavailable
from deployments.ingress.cold_start import LAST_RETRY_S, POLL_S, ColdStart
from tests.fakes.clock import settle
from tests.fakes.loop import run

TIMEOUT_S = 60.0


class Caller:
    """Calls that are answered when `answer` is set; the first `failures` fail at once."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.made = 0
        self.open = 0
        self.answer = asyncio.Event()
        self.cold_start = ColdStart(self.call, TIMEOUT_S)

    async def call(self) -> None:
        self.made += 1
        if self.made <= self.failures:
            raise ConnectionError("the deployment failed")
        self.open += 1
        try:
            await self.answer.wait()
        finally:
            self.open -= 1

    def wait(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.cold_start.wait(self.answer.is_set))


def test_all_wait_with_one_call_which_ends_with_them() -> None:
    async def main() -> None:
        caller = Caller()
        waiting = [caller.wait() for _ in range(50)]
        await asyncio.sleep(30)
        assert (caller.made, caller.open) == (1, 1)
        assert not any(task.done() for task in waiting)
        caller.answer.set()
        await asyncio.gather(*waiting)
        assert asyncio.get_running_loop().time() <= 30 + 2 * POLL_S
        await settle()
        assert caller.open == 0 and len(asyncio.all_tasks()) == 1

    run(main())


def test_each_waits_for_its_own_time() -> None:
    async def main() -> None:
        caller = Caller()
        early = caller.wait()
        await asyncio.sleep(20)
        late = caller.wait()
        with pytest.raises(GeneratorUnavailable, match=r"within 60 s"):
            await early
        assert asyncio.get_running_loop().time() == pytest.approx(TIMEOUT_S)
        assert caller.open == 1 and not late.done()
        with pytest.raises(GeneratorUnavailable):
            await late
        assert asyncio.get_running_loop().time() == pytest.approx(TIMEOUT_S + 20)
        await settle()
        assert caller.open == 0

    run(main())


def test_nobody_waits_nobody_calls_and_the_next_one_calls_again() -> None:
    async def main() -> None:
        caller = Caller()
        for made in (1, 2):
            waiting = caller.wait()
            await settle()
            assert (caller.made, caller.open) == (made, 1)
            waiting.cancel()
            await settle()
            assert waiting.cancelled() and caller.open == 0

    run(main())


def test_a_call_that_fails_is_made_again() -> None:
    async def main() -> None:
        caller = Caller(failures=6)
        waiting = caller.wait()
        await asyncio.sleep(6 * LAST_RETRY_S)
        assert (caller.made, caller.open) == (7, 1)
        caller.answer.set()
        await waiting

    run(main())


def test_an_answer_without_a_replica_is_followed_by_calls_at_a_distance() -> None:
    async def main() -> None:
        caller = Caller()
        caller.answer.set()
        with pytest.raises(GeneratorUnavailable):
            await caller.cold_start.wait(lambda: False)
        assert 5 <= caller.made <= TIMEOUT_S / LAST_RETRY_S + 5

    run(main())
