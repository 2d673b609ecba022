"""The thread that owns an engine, and the only way for others to reach it.

Commands go in through a queue and are obeyed in order, before the next step; the outputs of a step go out to
the event loop in one call. While the engine has nothing to do, the thread sleeps. `abort`, `pause`, `resume`
and `steer` return at once and are obeyed within a step.

When the engine itself breaks, so that `step` raises, every stream ends with an error batch. When the loop
stops, streams just end: whoever stops it is leaving, and tells the readers by closing what carries the
batches.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from app.errors import GeneratorUnavailable, ServiceError
from app.schema.tokens import Job, Steering
from deployments.engine.protocol import Engine, EngineStatistics, Outputs

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.001
"""The longest that Python code of one thread keeps the other waiting. The default of 5 ms would show as
jitter between tokens.
"""

MAX_BROKEN_STEPS = 3
_BROKEN = "The generator failed."


@dataclass(frozen=True, slots=True)
class _Add:
    job: Job
    accepted: asyncio.Future[None]


_Command = _Add | Callable[[], None]


class EngineLoop:
    """Runs the steps of `engine` in a thread of its own and calls `deliver` on the event loop, once for each step that
    made something.

    The batches of a choice are delivered in order. Those of a job may be delivered before its `add` returns.
    """

    def __init__(
        self,
        engine: Engine,
        deliver: Callable[[Outputs], None],
        *,
        step_timeout_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._deliver = deliver
        self._step_timeout_s = step_timeout_s
        self._clock = clock
        self._changed = threading.Condition()
        self._commands: deque[_Command] = deque()
        self._stopping = False
        self._idle = True
        self._progress_at = clock()
        self._broken_in_a_row = 0
        self._statistics = engine.statistics()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Starts the thread; `deliver` will be called on `loop`, by default the running one. Sets the switch
        interval.
        """
        self._loop = loop or asyncio.get_running_loop()
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the thread after the step that it is in, and waits for that. Idempotent. Blocks for
        `timeout_s` at most.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # For the event loop and other threads.

    async def add(self, job: Job) -> None:
        """Returns when the engine has taken the job. Called on the event loop that `start` got.

        Raises `InvalidRequest`, `Overloaded`, and `GeneratorUnavailable` when the thread is not there. When
        cancelled, the job is aborted.
        """
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._send(_Add(job, accepted)):
            raise GeneratorUnavailable("The generator is stopping.")
        try:
            await accepted
        except asyncio.CancelledError:
            self.abort(job.ingress, job.key)
            raise

    def abort(self, ingress: str, key: int) -> None:
        """Drops a stream, whether it is there or not. A batch that is on its way may still be delivered."""
        self._send(lambda: self._engine.abort(ingress, key))

    def pause(self, ingress: str, key: int) -> None:
        """Leaves a stream out of the batch. A batch that is on its way may still be delivered."""
        self._send(lambda: self._engine.pause(ingress, key))

    def resume(self, ingress: str, key: int) -> None:
        """Undoes `pause`."""
        self._send(lambda: self._engine.resume(ingress, key))

    def steer(self, ingress: str, key: int, steering: Steering) -> None:
        """Appends tokens to a stream, once for each steering. Does nothing for a stream that isn't there."""
        self._send(lambda: self._engine.steer(ingress, key, steering))

    def statistics(self) -> EngineStatistics:
        """As of the latest step or command."""
        return self._statistics

    @property
    def healthy(self) -> bool:
        """The thread is there, its engine is healthy, and no step takes longer than `step_timeout_s`."""
        stalled = not self._idle and self._clock() - self._progress_at > self._step_timeout_s
        broken = self._broken_in_a_row >= MAX_BROKEN_STEPS
        there = self._thread.is_alive() and not self._stopping
        return there and self._engine.healthy and not stalled and not broken

    def _send(self, command: _Command) -> bool:
        with self._changed:
            if self._stopping:
                return False
            self._commands.append(command)
            self._changed.notify()
            return True

    # The thread.

    def _run(self) -> None:
        try:
            while self._wait():
                self._obey()
                due_s = self._engine.next_step_s()
                if due_s is not None and due_s <= 0:
                    try:
                        outputs = self._engine.step()
                        self._broken_in_a_row = 0
                    except Exception:
                        logger.exception("the engine broke in a step; every stream ends")
                        self._broken_in_a_row += 1
                        outputs = self._engine.fail_all(_BROKEN)
                    if outputs:
                        self._call(partial(self._deliver, outputs))
                self._statistics = self._engine.statistics()
        except Exception:
            logger.exception("the engine's thread ends")
        finally:
            self._close()

    def _wait(self) -> bool:
        """Sleeps until there is a command or a step is due. False when the loop is to end."""
        with self._changed:
            while not self._commands and not self._stopping:
                due_s = self._engine.next_step_s()
                if due_s is not None and due_s <= 0:
                    break
                self._idle = True
                self._changed.wait(due_s)
            self._progress_at = self._clock()
            self._idle = False
            return not self._stopping

    def _obey(self) -> None:
        """Obeys all commands; the answers to the jobs among them go to the event loop in one call."""
        answers: list[tuple[asyncio.Future[None], ServiceError | None]] = []
        while self._commands:
            command = self._commands.popleft()
            if isinstance(command, _Add):
                refusal: ServiceError | None = None
                try:
                    self._engine.add(command.job)
                except ServiceError as error:
                    refusal = error
                answers.append((command.accepted, refusal))
            else:
                command()
        if answers:
            self._call(lambda: _answer(answers))

    def _call(self, callback: Callable[[], None]) -> None:
        """Runs `callback` on the event loop. When the event loop is closed, the thread ends, because no reader is
        left.
        """
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            logger.warning("the event loop is closed; the engine's thread ends")
            with self._changed:
                self._stopping = True

    def _close(self) -> None:
        """Refuses what was never looked at."""
        with self._changed:
            self._stopping = True
            left = [command for command in self._commands if isinstance(command, _Add)]
            self._commands.clear()
        if left:
            refusal = GeneratorUnavailable("The generator is stopping.")
            self._call(lambda: _answer([(command.accepted, refusal) for command in left]))


def _answer(answers: list[tuple[asyncio.Future[None], ServiceError | None]]) -> None:
    for accepted, error in answers:
        if accepted.done():
            continue
        if error is None:
            accepted.set_result(None)
        else:
            accepted.set_exception(error)
