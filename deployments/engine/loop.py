"""The thread that owns an engine, and the only way for others to reach it.

Commands go in through a queue and are obeyed in order, before the next step; the outputs of a step go out to
the event loop in one call. While the engine has nothing to do, the thread sleeps. `add`, `abort`, `end`, `pause`,
`resume` and `steer` return at once, whatever the engine is doing, and are obeyed after the step that runs. `add` refuses at
once what the engine can't do or has no place for.

When the engine itself breaks, so that `step` or a command raises, every stream ends with an error batch; when even that
fails, the thread ends every stream that it knows, and then itself. When the loop stops, streams just end: whoever stops it is
leaving, and tells the readers by closing what carries the batches.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from app.errors import GeneratorUnavailable, ServiceError
from app.schema.tokens import Job, Steering
from deployments.engine.held_jobs import HeldJobs, error_batches
from deployments.engine.jobs import check_job, open_choices
from deployments.engine.protocol import Engine, EngineStatistics, Outputs

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.001
"""The longest that Python code of one thread keeps the other waiting. The default of 5 ms would show as
jitter between tokens.
"""

MAX_BROKEN_STEPS = 3
_BROKEN = "The generator failed."

_Command = Job | Callable[[], None]
"""A job is to be added."""


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
        self._changed = threading.Condition()  # its lock is reentrant
        self._commands: deque[_Command] = deque()
        self._held = HeldJobs(engine.max_sequences)
        self._stopping = False
        self._idle = True
        self._progress_at = clock()
        engine.progress = self._progressed
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

    def add(self, job: Job) -> None:
        """Accepts a job, which the engine takes after its step. Does not wait for it.

        Raises `InvalidRequest`, `Overloaded`, and `GeneratorUnavailable` when the thread is not there. When the engine
        can't take the job after all, its choices end with an error batch.
        """
        check_job(job, self._engine.vocab_size, self._engine.max_model_len_tokens)
        with self._changed:
            if self._stopping:
                raise GeneratorUnavailable("The generator is stopping.")
            self._held.admit(job)
            self._commands.append(job)
            self._changed.notify()

    def prepare(self, job: Job) -> None:
        """Does what takes long of a job, before `add`, and lets the steps go on. Blocks; for another thread than the event
        loop's. Raises `InvalidRequest`.
        """
        self._engine.prepare(job)

    def abort(self, ingress: str, key: int) -> None:
        """Drops a stream, whether it is there or not. A batch that is on its way may still be delivered."""
        with self._changed:
            self._held.drop(ingress, key)
            self._send(lambda: self._engine.abort(ingress, key))

    def end(self, ingress: str, key: int, choice: int) -> None:
        """Ends one choice of a stream. Tokens that are on their way may still be delivered before its ending."""
        self._send(lambda: self._engine.end(ingress, key, choice))

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
    def deterministic(self) -> bool:
        """That of the engine."""
        return self._engine.deterministic

    @property
    def healthy(self) -> bool:
        """The thread is there, its engine is healthy, and no part of a step takes longer than `step_timeout_s`.

        A part is a layer of the model, or what comes after the layers; see `Engine.progress`. A step of many long parts is no
        hung step.
        """
        stalled = not self._idle and self._clock() - self._progress_at > self._step_timeout_s
        broken = self._broken_in_a_row >= MAX_BROKEN_STEPS
        there = self._thread.is_alive() and not self._stopping
        return there and self._engine.healthy and not stalled and not broken

    def _send(self, command: Callable[[], None]) -> None:
        with self._changed:
            if not self._stopping:
                self._commands.append(command)
                self._changed.notify()

    # The thread.

    def _run(self) -> None:
        try:
            while self._wait():
                outputs: Outputs = {}
                try:
                    self._obey(outputs)
                    due_s = self._engine.next_step_s()
                    if due_s is not None and due_s <= 0:
                        _merge(outputs, self._engine.step())
                        self._broken_in_a_row = 0
                except Exception:
                    logger.exception("the engine broke in a step; every stream ends")
                    self._broken_in_a_row += 1
                    _merge(outputs, self._engine.fail_all(_BROKEN))
                self._put_out(outputs)
                self._statistics = self._engine.statistics()
        except Exception:
            logger.exception("the engine's thread ends")
        finally:
            self._close()

    def _progressed(self) -> None:
        self._progress_at = self._clock()

    def _wait(self) -> bool:
        """Sleeps until there is a command or a step is due. False when the loop is to end."""
        with self._changed:
            while not self._commands and not self._stopping:
                due_s = self._engine.next_step_s()
                if due_s is not None and due_s <= 0:
                    break
                self._idle = True
                self._changed.wait(due_s)
            self._progressed()
            self._idle = False
            return not self._stopping

    def _obey(self, outputs: Outputs) -> None:
        """Obeys all commands. The endings of jobs that the engine doesn't take go to `outputs`."""
        while self._commands:
            command = self._commands.popleft()
            self._progressed()
            if not isinstance(command, Job):
                command()
                continue
            with self._changed:
                self._held.taken(command)
            try:
                self._engine.add(command)
            except Exception as error:
                logger.exception("the engine did not take a job that was accepted; it ends")
                message = error.message if isinstance(error, ServiceError) else _BROKEN
                batches = error_batches(command, message, open_choices(command))
                _merge(outputs, {command.ingress: batches})

    def _put_out(self, outputs: Outputs) -> None:
        """Delivers `outputs`, on the event loop. When that is closed, the thread ends, because no reader is left."""
        if not outputs:
            return
        assert self._loop is not None
        try:
            with self._changed:
                self._held.ended(outputs)
            self._loop.call_soon_threadsafe(partial(self._deliver, outputs))
        except RuntimeError:
            logger.warning("the event loop is closed; the engine's thread ends")
            with self._changed:
                self._stopping = True

    def _close(self) -> None:
        """Ends every stream if the thread dies without being stopped."""
        with self._changed:
            died, self._stopping = not self._stopping, True
            self._commands.clear()
            outputs = self._held.fail_all(_BROKEN) if died else {}
        self._put_out(outputs)


def _merge(outputs: Outputs, more: Outputs) -> None:
    """Appends the batches of `more`, whose lists are kept where `outputs` has none."""
    for ingress, batches in more.items():
        if ingress in outputs:
            outputs[ingress].extend(batches)
        else:
            outputs[ingress] = batches
