"""A limit for how long a client may leave its messages untaken."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

# Timers of event loops are a little early at times.
_TIMER_SLACK_S = 0.002


class StallTimer:
    """Cancels the task that it was made in when something that was begun is not ended within `timeout_s`.

    One timer for the life of a call; `begin` and `end` around each message cost next to nothing.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._began_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._began_s = self._loop.time()

    def end(self) -> None:
        self._began_s = None

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
        elif self._task is not None:
            self._task.cancel()
