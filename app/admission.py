"""Admission: how many sequences and streams run in this process, how much it holds of bodies, and the refusal of more.

A permit lives exactly as long as its stream. Nothing queues here: a request gets a permit at once, or the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import GeneratorUnavailable, Overloaded, TooManyStreams

RETRY_AFTER_S = 1


class Admission:
    """Counts the sequences of one model that run in this process."""

    def __init__(self) -> None:
        self.sequences = 0

    @contextmanager
    def permit(self, sequences: int, capacity: int, *, accepted: bool = False) -> Iterator[None]:
        """Reserves places for `sequences` among `capacity`. Leaving the context gives them back.

        Raises `GeneratorUnavailable` when there is no capacity at all, and `Overloaded`. A stream that was `accepted` before is
        never refused.
        """
        if not accepted and not capacity:
            raise GeneratorUnavailable(
                "No replica of the model answers. Try again later.", retry_after_s=RETRY_AFTER_S
            )
        if not accepted and self.sequences + sequences > capacity:
            raise Overloaded(
                f"The server runs {self.sequences} sequences, and {sequences} more would exceed the maximum of {capacity}.",
                retry_after_s=RETRY_AFTER_S,
            )
        self.sequences += sequences
        try:
            yield
        finally:
            self.sequences -= sequences


class Quota:
    """Counts the running streams of each owner that this process produces, `max_streams` at most for each."""

    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self._streams: dict[str, int] = {}

    @contextmanager
    def permit(self, owner: str, streams: int = 1, *, accepted: bool = False) -> Iterator[None]:
        """So many more streams of `owner`; raises `TooManyStreams`. Leaving the context takes them back.

        A stream that was `accepted` before is never refused.
        """
        running = self._streams.get(owner, 0)
        if not accepted and running + streams > self._max_streams:
            raise TooManyStreams(
                f"This key already has {running} running streams, the maximum."
                if running >= self._max_streams
                else f"This key has {running} running streams, and {streams} more would exceed the maximum of "
                f"{self._max_streams}.",
                retry_after_s=RETRY_AFTER_S,
            )
        self._streams[owner] = running + streams
        try:
            yield
        finally:
            self._streams[owner] -= streams
            if not self._streams[owner]:
                del self._streams[owner]


class HeldBodies:
    """Counts the bytes of bodies that came and whose streams have not begun, `max_bytes` at most in this process."""

    def __init__(self, max_bytes: int) -> None:
        self.held_bytes = 0
        self._max_bytes = max_bytes

    @contextmanager
    def permit(self) -> Iterator[Callable[[int], None]]:
        """What counts the bytes of a body as they come; it raises `Overloaded`. Leaving the context takes them back."""
        counted = 0

        def count(size: int) -> None:
            nonlocal counted
            if self.held_bytes + size > self._max_bytes:
                raise Overloaded(
                    f"The server holds {self.held_bytes} bytes of requests, and {size} more would exceed the maximum of "
                    f"{self._max_bytes}.",
                    retry_after_s=RETRY_AFTER_S,
                )
            self.held_bytes += size
            counted += size

        try:
            yield count
        finally:
            self.held_bytes -= counted
