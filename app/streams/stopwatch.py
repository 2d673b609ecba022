"""The times of one stream."""

from __future__ import annotations

from app.ports import Clock
from app.schema.frames import Timings


class Stopwatch:
    """Counts from `began_s`, on the monotonic clock, when the request came. All times are seconds."""

    def __init__(self, clock: Clock, began_s: float) -> None:
        self._clock = clock
        self._began_s = began_s
        self._accepted_s: float | None = None
        self._first_token_s: float | None = None

    def accepted(self) -> None:
        """A generator has taken the job. Only the first time counts."""
        if self._accepted_s is None:
            self._accepted_s = self._clock.monotonic()

    def generated(self) -> None:
        """There are tokens. Only the first time counts."""
        if self._first_token_s is None:
            self._first_token_s = self._clock.monotonic()

    def timings(self, tokens: int) -> Timings:
        """What the end frame says of a stream of `tokens` tokens that ends now."""
        now_s = self._clock.monotonic()
        total_s = max(now_s - self._began_s, 1e-9)
        first_s = self._first_token_s
        return Timings(
            queue_ms=round(((self._accepted_s or now_s) - self._began_s) * 1000, 3),
            ttft_ms=None if first_s is None else round((first_s - self._began_s) * 1000, 3),
            total_ms=round(total_s * 1000, 3),
            tokens_per_s=round(tokens / total_s, 3),
        )
