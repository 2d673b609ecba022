"""Waking a coroutine from a callback."""

from __future__ import annotations

import asyncio


class Wakeup:
    """One coroutine waits, any code on the event loop calls. Calls before the wait are not lost; several count as one."""

    __slots__ = ("_called", "_waiter")

    def __init__(self) -> None:
        self._called = False
        self._waiter: asyncio.Future[None] | None = None

    def __call__(self) -> None:
        """Wakes the waiter, now or as soon as it waits."""
        self._called = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Returns after a call that no earlier wait has used. Cancelled, it uses none."""
        if not self._called:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._called = False
