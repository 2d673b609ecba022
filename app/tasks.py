"""The tasks of a service, which end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Keeps what runs in the background from being lost. `closed`: nothing begins any more."""

    def __init__(self) -> None:
        self.closed = False
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work` in a task of its own. After `cancel` the task is cancelled before it begins."""
        task = asyncio.get_running_loop().create_task(work)
        if self.closed:
            task.cancel()
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def cancel(self) -> None:
        """Cancels what runs. Nothing begins after that. Idempotent."""
        self.closed = True
        for task in self._running:
            task.cancel()

    async def ended(self) -> None:
        """Returns when all that was cancelled has ended."""
        await asyncio.gather(*self._running, return_exceptions=True)
