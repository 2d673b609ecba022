"""A log of streams as tests need it."""

from __future__ import annotations

from app.ports import Clock
from app.streams.memory_log import LogBounds, MemoryStreamLog
from tests.fakes.clock import FakeClock


def memory_log(clock: Clock | None = None) -> MemoryStreamLog:
    """A log in memory, on a clock that stands still unless one is given."""
    return MemoryStreamLog(LogBounds(), clock or FakeClock())
