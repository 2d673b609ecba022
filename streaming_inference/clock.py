"""The clock of a client."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Time as the client sees it. A test passes one that it moves itself."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Returns after `duration_s` seconds."""
        ...


class LoopClock:
    """The machine's monotonic clock, and the sleep of the running event loop."""

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)
