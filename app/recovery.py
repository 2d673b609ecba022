"""Recovery: whether a stream that has lost its replica is tried again, when, and in whose company.

A replica may die because of one of its streams, and its other streams have lost it just as well. What tells them apart is what
they were doing: a request that kills a replica as soon as it is computed has no token of it. So a stream that got no token of
the replica that it lost is suspected. Suspects are tried in turns, each until its first token. A suspect whose second replica is
lost in its turn is given up. The others lose no more than time, whatever they had to do with it. A replica takes one job on trial
at a time, so suspects of several processes don't meet there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from app.backoff import Backoff
from app.errors import GenerationFailed, GeneratorUnavailable, Overloaded
from app.ports import Clock, TokenSink
from app.schema.tokens import TRIAL_S, TokenBatch
from app.settings import StreamsSettings

MAX_KILLED_REPLICAS = 2
FIRST_RETRY_S = 0.25
LAST_RETRY_S = 1.5


class Recovery:
    """What one stream has lost in this process. A token does not make it forget.

    Each failure says how long to wait before the next attempt: nothing at first, then longer and longer until a token comes.
    """

    def __init__(self, settings: StreamsSettings, clock: Clock) -> None:
        self.suspected = False
        self._lost: list[str] = []
        self._settings = settings
        self._clock = clock
        self._backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        self._failures = 0
        self._without_replica_since_s: float | None = None

    def lost(self, replica: str, *, tokens: bool, on_trial: bool) -> float:
        """The replica is dead, silent or out of reach. `tokens`: the stream has got some of it. Returns the pause in seconds.

        Raises `GenerationFailed` when the stream is found to kill replicas, `GeneratorUnavailable` when it has lost too many.
        """
        self._lost.append(replica)
        self.suspected = not tokens
        self._without_replica_since_s = self._clock.monotonic()
        if tokens:
            self._backoff.reset()
            self._failures = 0
        if on_trial and not tokens and len(set(self._lost)) >= MAX_KILLED_REPLICAS:
            raise GenerationFailed(
                f"{len(set(self._lost))} replicas were lost while they computed this stream. It is not tried on another."
            )
        if len(self._lost) >= self._settings.max_lost_replicas:
            raise GeneratorUnavailable(
                f"The stream has lost its replica {len(self._lost)} times, the maximum."
            )
        return self._pause_s()

    def refused(self, error: GeneratorUnavailable | Overloaded) -> float:
        """No replica has taken the stream. Returns the pause in seconds. Raises `error` when there was none for too long.

        A full replica will have room: the stream waits for it within its time limit.
        """
        now_s = self._clock.monotonic()
        if isinstance(error, Overloaded):
            self._without_replica_since_s = None
            return self._pause_s()
        if self._without_replica_since_s is None:
            self._without_replica_since_s = now_s
        left_s = self._without_replica_since_s + self._settings.replica_wait_s - now_s
        if left_s <= 0:
            raise error
        return min(self._pause_s(), left_s)

    def _pause_s(self) -> float:
        self._failures += 1
        return self._backoff.next_s() if self._failures > 1 else 0.0


class Trial:
    """The turn of a suspect, and the sink of its attempt. It is over with the first tokens, after `TRIAL_S`, or by `end`."""

    def __init__(self, sink: TokenSink) -> None:
        self.over = asyncio.Event()
        self._sink = sink
        self._timer = asyncio.get_running_loop().call_later(TRIAL_S, self.end)

    def feed(self, batch: TokenBatch) -> None:
        self.end()
        self._sink.feed(batch)

    def lost(self) -> None:
        self._sink.lost()

    def end(self) -> None:
        """Idempotent."""
        self._timer.cancel()
        self.over.set()


class Trials:
    """The turns of the suspects of one model: one at a time in this process."""

    def __init__(self) -> None:
        self._trial: Trial | None = None

    @property
    def running(self) -> Trial | None:
        """The trial to wait for; None when the next suspect can be tried."""
        return None if self._trial is None or self._trial.over.is_set() else self._trial

    @contextmanager
    def turn(self, sink: TokenSink) -> Iterator[Trial]:
        """The trial of `sink`, when none is running."""
        trial = self._trial = Trial(sink)
        try:
            yield trial
        finally:
            trial.end()
