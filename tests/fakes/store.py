"""A stream store as tests need it."""

from __future__ import annotations

from app.ports import Clock
from app.streams.memory_store import MemoryStreamStore
from app.streams.store_bounds import StoreBounds
from tests.fakes.clock import FakeClock


def memory_store(clock: Clock | None = None) -> MemoryStreamStore:
    """A stream store in memory, on a clock that stands still unless one is given."""
    return MemoryStreamStore(StoreBounds(), clock or FakeClock())
