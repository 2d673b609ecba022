"""Admission: how many sequences this process has under way, and the refusal of more.

A permit lives exactly as long as its stream. Nothing queues here: a request gets a permit at once or `Overloaded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Overloaded

RETRY_AFTER_S = 1


class Admission:
    """Counts the sequences of one model that this process has under way."""

    def __init__(self) -> None:
        self.sequences = 0

    @contextmanager
    def permit(self, sequences: int, capacity: int, *, accepted: bool = False) -> Iterator[None]:
        """Reserves places for `sequences` among `capacity`; raises `Overloaded`. Leaving the context gives them back.

        A stream that was `accepted` before is never refused.
        """
        if not accepted and self.sequences + sequences > capacity:
            raise Overloaded(
                f"The server is working on {self.sequences} sequences of {capacity}. Try again later.",
                retry_after_s=RETRY_AFTER_S,
            )
        self.sequences += sequences
        try:
            yield
        finally:
            self.sequences -= sequences
