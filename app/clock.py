"""The clock of the running service."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Implements `app.ports.Clock` with the machine's clocks and the running loop's sleep."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)
