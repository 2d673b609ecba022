"""The recorder: writes what the streams of this process gain into the log, in the background.

All streams go into one call. The next one starts when the last has returned and `PACE_S` after it started, with everything that
came meanwhile; there is no call while nothing happens. What could not be written stays in the streams and goes with a later call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from app.errors import ServiceError
from app.ports import Clock
from app.streams.log import Append, StreamLog
from app.streams.stream import Stream

logger = logging.getLogger(__name__)

RETRY_S = 0.2
PACE_S = 0.02
"""Calls begin no closer than this: a call costs as much as many tokens, and a log that lags by so little loses nothing."""


@dataclass
class _Recording:
    """How much of a stream the log has: tokens and edits of each choice, and whether it knows how the choice ended."""

    stream: Stream
    epoch: int
    counts: list[int]
    edits: list[int]
    finished: list[bool] = field(init=False)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.finished = [False] * len(self.counts)

    def append(self) -> Append:
        """What the log does not have yet."""
        stream = self.stream
        batches = [
            choice.behind(index, self.counts[index], self.edits[index])
            for index, choice in enumerate(stream.choices)
            if len(choice.token_ids) > self.counts[index]
            or choice.engine_finished != self.finished[index]
            or len(choice.edits) > self.edits[index]
        ]
        return Append(stream.id, self.epoch, batches, stream.ending)

    def written(self, append: Append) -> None:
        """The log has `append`."""
        for batch in append.batches:
            self.counts[batch.choice] = batch.position + len(batch.token_ids)
            self.finished[batch.choice] = batch.finish is not None
            self.edits[batch.choice] += len(batch.edits or ())
        if self.stream.changes.barrier is not None:
            self.stream.recorded(self.edits)
        if append.ending is not None:
            self.done.set()


class Recorder:
    """Records the streams that this process drives. `on_stale` is called for one that another process has taken over."""

    def __init__(self, log: StreamLog, driver: str, clock: Clock, on_stale: Callable[[Stream], None]) -> None:
        self._log = log
        self._driver = driver
        self._clock = clock
        self._on_stale = on_stale
        self._recordings: dict[str, _Recording] = {}
        self._changed: set[str] = set()
        self._wake = asyncio.Event()

    def start(self, stream: Stream, epoch: int, counts: list[int]) -> None:
        """Records `stream`, of which the log has the first `counts` tokens and all edits, until its ending is in the log."""
        edits = [len(choice.edits) for choice in stream.choices]
        self._recordings[stream.id] = _Recording(stream, epoch, counts, edits)
        self.changed(stream)

    def changed(self, stream: Stream) -> None:
        """The stream has something new. Costs next to nothing: called for every token."""
        if stream.id in self._recordings:
            self._changed.add(stream.id)
            self._wake.set()

    async def flush(self, stream: Stream) -> None:
        """Returns when the ending of the stream is in the log, or the stream is not recorded any more."""
        recording = self._recordings.get(stream.id)
        if recording is not None:
            await recording.done.wait()

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            began_s = self._clock.monotonic()
            changed, self._changed = self._changed, set()
            try:
                await self._write([self._recordings[name] for name in changed if name in self._recordings])
            except ServiceError as error:
                logger.warning("the log of streams did not take %d streams: %s", len(changed), error.message)
                await self._clock.sleep(RETRY_S)
                self._changed |= changed
                self._wake.set()
            if (early_s := began_s + PACE_S - self._clock.monotonic()) > 0:
                await self._clock.sleep(early_s)

    async def _write(self, recordings: list[_Recording]) -> None:
        appends = [recording.append() for recording in recordings]
        refusals = {
            refusal.stream: refusal.reason for refusal in await self._log.append(self._driver, appends)
        }
        for recording, append in zip(recordings, appends, strict=True):
            reason = refusals.get(append.stream)
            if reason is None:
                recording.written(append)
            if reason == "unknown":
                await self._create_again(recording)
            elif reason == "stale" or recording.done.is_set():
                recording.done.set()
                del self._recordings[append.stream]
                if reason == "stale":
                    self._on_stale(recording.stream)

    async def _create_again(self, recording: _Recording) -> None:
        """The log has lost its memory; what still runs is told to it anew."""
        await self._log.create(recording.stream.record, self._driver)
        recording.epoch = 1
        recording.counts = [0] * len(recording.counts)
        recording.edits = [0] * len(recording.counts)
        recording.finished = [False] * len(recording.counts)
        self.changed(recording.stream)
