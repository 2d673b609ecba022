"""For tests of what only real sockets and threads show: waiting for something that another one does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE_S = 10
TURN_S = 0.005


async def until(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds. Raises `TimeoutError` when it does not for long."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(TURN_S)
