"""Calls of unknown outcome: creations and takeovers of which no reply came."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from app.errors import StoreUnavailable

MAX_DOUBTS = 1_000
UNDOINGS = 3
"""How often a call is undone: the server may still receive it after the first time."""


class Doubts:
    """The nonce of each call in doubt, by its stream. The oldest is dropped after `MAX_DOUBTS`."""

    def __init__(self) -> None:
        self._doubts: dict[str, tuple[str, int]] = {}

    @contextmanager
    def unless_replied(self, stream: str, nonce: str) -> Iterator[None]:
        """The call in this block is in doubt when it fails or is cancelled."""
        try:
            yield
        except (StoreUnavailable, asyncio.CancelledError):
            self._put(stream, nonce, UNDOINGS)
            raise

    def settle(self, streams: Iterable[str]) -> None:
        """The producer knows these streams to be its own."""
        if self._doubts:
            for stream in streams:
                self._doubts.pop(stream, None)

    def pending(self) -> dict[str, tuple[str, int]]:
        """By stream: the nonce, and how often the call is still to be undone."""
        return dict(self._doubts)

    def undone(self, pending: dict[str, tuple[str, int]]) -> None:
        """The calls that were `pending` are undone once more."""
        for stream, (nonce, undoings) in pending.items():
            if self._doubts.get(stream) == (nonce, undoings):
                self._put(stream, nonce, undoings - 1)

    def _put(self, stream: str, nonce: str, undoings: int) -> None:
        self._doubts.pop(stream, None)
        if undoings > 0:
            self._doubts[stream] = (nonce, undoings)
        if len(self._doubts) > MAX_DOUBTS:
            del self._doubts[next(iter(self._doubts))]
