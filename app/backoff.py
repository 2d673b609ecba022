"""The pauses between the attempts of something that is repeated until it succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Backoff:
    """Pauses that double from `first_s` up to `last_s` seconds, which is `first_s` unless given: then all are alike.

    `sleep` makes them pass: `asyncio.sleep`, or the `sleep` of a `Clock`.
    """

    def __init__(
        self,
        first_s: float,
        last_s: float | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._first_s = first_s
        self._last_s = first_s if last_s is None else last_s
        self._sleep = sleep
        self._next_s = first_s
        self.waited_s = 0.0

    def next_s(self) -> float:
        """The length of the next pause, for a caller that makes it itself. `waited_s` is the sum since the last success."""
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self._last_s)
        self.waited_s += pause_s
        return pause_s

    async def pause(self) -> None:
        """Waits for the next pause. Cancellation ends it at once."""
        await self._sleep(self.next_s())

    def reset(self) -> None:
        """An attempt has succeeded: the pauses begin with `first_s` again."""
        self._next_s = self._first_s
        self.waited_s = 0.0
