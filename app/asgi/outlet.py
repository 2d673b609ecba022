"""A server's `send`, driven from synchronous code: with no task switch and no queue while the socket has room.

Nearly always `send` returns without waiting, as the bytes only go to the transport's buffer. When it does wait, the socket is
full: the suspended `send` is handed to a task of its own, and whoever writes must wait for `on_free`, so that the backlog
stays where it came from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from starlette.types import Message, Send


class Outlet:
    """The writing side of one connection, up to its end. Used on one event loop.

    `over` is done when nothing more may be written: by `end`, by a `send` that failed, or because a socket took nothing for
    `reader_stall_timeout_s`. `on_stalled` is called before that, and `on_free` when a full socket takes messages again.
    """

    def __init__(
        self, *, reader_stall_timeout_s: float, on_free: Callable[[], None], on_stalled: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader_stall_timeout_s = reader_stall_timeout_s
        self._on_free = on_free
        self._on_stalled = on_stalled
        self._blocked: asyncio.Task[None] | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self.over: asyncio.Future[None] = self._loop.create_future()

    @property
    def free(self) -> bool:
        """Whether something may be written now."""
        return self._blocked is None and not self.over.done()

    def drive(self, send: Send, message: Message, on_written: Callable[[], None]) -> None:
        """Runs `send` to its end here and now, or hands it to a task if it has to wait. Never raises.

        `on_written` is called when the server has taken the message.
        """
        try:
            steps = send(message).__await__()
            waiting_on = next(steps)
        except StopIteration:
            on_written()
        except Exception as error:
            self.end(error)
        else:

            async def finish() -> None:
                try:
                    await Resumed(steps, waiting_on)
                except Exception as error:
                    self.end(error)
                    return
                self._blocked = None
                if self._stall_timer is not None:
                    self._stall_timer.cancel()
                on_written()
                self._on_free()

            self._blocked = self._loop.create_task(finish())
            self._stall_timer = self._loop.call_later(self._reader_stall_timeout_s, self._stalled)

    def end(self, error: Exception | None = None) -> None:
        """Nothing more is written. `error` is raised by `over`, unless it is an `OSError`, which is a client that went away."""
        if self.over.done():
            return
        if error is None or isinstance(error, OSError):
            self.over.set_result(None)
        else:
            self.over.set_exception(error)

    def close(self) -> None:
        """Gives up a write that waits."""
        for waiting in (self._stall_timer, self._blocked):
            if waiting is not None:
                waiting.cancel()

    def _stalled(self) -> None:
        self._on_stalled()
        self.end()


class Resumed:
    """A suspended awaitable that goes on in a task: yields what it waits for once more, so that the task waits for it."""

    def __init__(self, steps: Generator[Any, Any, None], waiting_on: object) -> None:
        self._steps = steps
        self._waiting_on = waiting_on

    def __await__(self) -> Generator[Any, Any, None]:
        waiting_on = self._waiting_on
        proceed: Callable[[], object]
        while True:
            try:
                value = yield waiting_on
                proceed = partial(self._steps.send, value)
            except BaseException as error:
                proceed = partial(self._steps.throw, error)
            try:
                waiting_on = proceed()
            except StopIteration:
                return
