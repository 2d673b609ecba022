"""An event loop whose clock jumps to the next timer when there is nothing else to do, so that no test waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class JumpingLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and stands still while there is work."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        return self._now_s

    def _jump(self, duration_s: float) -> None:
        self._now_s += duration_s


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("the loop would wait for ever")
            self._jump(max(timeout, 0))
        return events


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs `main` on a loop of this kind."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main)
