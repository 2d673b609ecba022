"""A limit for how long a client may leave the messages of a call untaken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from app.errors import RequestTimeout

# Timers of event loops are a little early at times.
_TIMER_SLACK_S = 0.002


class StallTimer:
    """Calls `on_stalled`, once, when something that was begun is not ended within `timeout_s`. To be used as a context.

    One timer for the life of a call: `begin` and `end` around each message cost next to nothing. A call that stands still
    can't be ended from this side: its client hears how it has ended when it reads on.
    """

    def __init__(self, timeout_s: float, on_stalled: Callable[[], object]) -> None:
        self._timeout_s = timeout_s
        self._on_stalled = on_stalled
        self._loop = asyncio.get_running_loop()
        self._began_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False

    def begin(self) -> None:
        """A message is handed over."""
        self._began_s = self._loop.time()

    def end(self) -> None:
        """It was taken. Raises `RequestTimeout` if that was too late."""
        self._began_s = None
        if self._stalled:
            raise RequestTimeout(
                f"Nothing of the call was read for {self._timeout_s:g} s. Its streams can be resumed."
            )

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(self._timeout_s, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        remaining_s = self._timeout_s
        if self._began_s is not None:
            remaining_s += self._began_s - self._loop.time()
        if remaining_s > _TIMER_SLACK_S:
            self._timer = self._loop.call_later(remaining_s, self._look)
        else:
            self._stalled = True
            self._on_stalled()
