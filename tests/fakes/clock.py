"""A clock that tests move."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class FakeClock:
    """Implements `app.ports.Clock`. Time stands still until `advance`."""

    def __init__(self, time_s: float = 1_790_000_000.0) -> None:
        self._now_s = 0.0
        self._epoch_s = time_s
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def time(self) -> float:
        return self._epoch_s + self._now_s

    def monotonic(self) -> float:
        return self._now_s

    async def sleep(self, duration_s: float) -> None:
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + duration_s, next(self._order), woken))
        await woken

    async def advance(self, duration_s: float) -> None:
        """Moves time on, waking sleepers in their order, and lets what they started run."""
        until_s = self._now_s + duration_s
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until_s:
            self._now_s, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            await settle()
        self._now_s = until_s


async def settle(turns: int = 20) -> None:
    """Lets every task that is ready run, a few times over."""
    for _ in range(turns):
        await asyncio.sleep(0)
