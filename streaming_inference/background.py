"""Work that goes on to its end when its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Background:
    """The tasks of one client that outlive their callers."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Returns when `work` is done. Cancelled, it leaves `work` running."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop keeps no task alive by itself
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def join(self) -> None:
        """Returns when nothing is left running."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))
