"""The recorder: writes what the streams of this process gain into the store, in the background.

All streams go into one call. The next one starts when the last has returned and `PACE_S` after it started, with everything that
came meanwhile; there is no call while nothing happens. What could not be written stays in the streams and goes with a later call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.backoff import Backoff
from app.errors import ServiceError
from app.ports import Clock
from app.streams.store import Append, StreamStore
from app.streams.stream import Stream
from app.wakeup import Wakeup

if TYPE_CHECKING:
    from app.streams.choice import Choice

logger = logging.getLogger(__name__)

RETRY_S = 0.2
PACE_S = 0.02
"""Calls begin no closer than this: a call costs as much as many tokens, and a store that lags by so little loses nothing."""


@dataclass(slots=True)
class _Stored:
    """How much of a choice the store has: so many tokens and edits, and whether it knows how the engine ended it."""

    choice: Choice
    tokens: int
    edits: int
    finished: bool = False


class _Recording:
    """How much of a stream the store has, which knows it in `epoch`. Both methods run for every stream in every call."""

    def __init__(self, stream: Stream, epoch: int, counts: list[int]) -> None:
        self.stream = stream
        self.epoch = epoch
        self.done = asyncio.Event()
        self._stored = [
            _Stored(choice, count, len(choice.edits))
            for choice, count in zip(stream.choices, counts, strict=True)
        ]

    def append(self) -> Append:
        """What the store does not have yet."""
        batches = []
        for index, stored in enumerate(self._stored):
            choice, tokens, edits = stored.choice, stored.tokens, stored.edits
            if (
                len(choice.token_ids) > tokens
                or len(choice.edits) > edits
                or choice.engine_finished != stored.finished
            ):
                batches.append(choice.after(index, tokens, edits))
        stream = self.stream
        return Append(stream.id, self.epoch, batches, stream.ending)

    def written(self, append: Append) -> None:
        """The store has `append`."""
        for batch in append.batches:
            stored = self._stored[batch.choice]
            stored.tokens = batch.position + len(batch.token_ids)
            stored.finished = batch.finish is not None
            if batch.edits is not None:
                stored.edits += len(batch.edits)
        if self.stream.changes.barrier is not None:
            self.stream.recorded([stored.edits for stored in self._stored])
        if append.ending is not None:
            self.done.set()

    def forgotten(self) -> None:
        """The store has nothing of the stream but its record, in the first epoch."""
        self.epoch = 1
        self._stored = [_Stored(choice, 0, 0) for choice in self.stream.choices]


class Recorder:
    """Records the streams that this process produces. `on_stale` is called for one that another process has taken over."""

    def __init__(
        self, store: StreamStore, producer: str, clock: Clock, on_stale: Callable[[Stream], None]
    ) -> None:
        self._store = store
        self._producer = producer
        self._clock = clock
        self._on_stale = on_stale
        self._recordings: dict[str, _Recording] = {}
        self._changed: set[str] = set()
        self._wakeup = Wakeup()
        self._told: list[asyncio.Event] = []

    def start(self, stream: Stream, epoch: int, counts: list[int]) -> None:
        """Records `stream`, of which the store has the first `counts` tokens and all edits, until its ending is in the store."""
        self._recordings[stream.id] = _Recording(stream, epoch, counts)
        self.changed(stream)

    def changed(self, stream: Stream) -> None:
        """The stream has something new. Costs next to nothing: called for every token."""
        if stream.id in self._recordings:
            self._changed.add(stream.id)
            self._wakeup()

    async def flush(self, stream: Stream) -> None:
        """Returns when the ending of the stream is in the store, or the stream is not recorded any more."""
        recording = self._recordings.get(stream.id)
        if recording is not None:
            await recording.done.wait()

    async def tell(self) -> None:
        """Returns when the store knows of every stream. It may have lost its memory, and a paused stream gains nothing."""
        self._changed.update(self._recordings)
        told = asyncio.Event()
        self._told.append(told)
        self._wakeup()
        await told.wait()

    async def run(self) -> None:
        """Writes until cancelled."""
        backoff = Backoff(RETRY_S, sleep=self._clock.sleep)
        while True:
            await self._wakeup.wait()
            began_s = self._clock.monotonic()
            changed, self._changed = self._changed, set()
            told, self._told = self._told, []
            try:
                await self._write(list(filter(None, map(self._recordings.get, changed))))
                for event in told:
                    event.set()
            except ServiceError as error:
                logger.warning("the stream store did not take %d streams: %s", len(changed), error.message)
                await backoff.pause()
                self._changed |= changed
                self._told += told
                self._wakeup()
            if (early_s := began_s + PACE_S - self._clock.monotonic()) > 0:
                await self._clock.sleep(early_s)

    async def _write(self, recordings: list[_Recording]) -> None:
        appends = [recording.append() for recording in recordings]
        rejections = await self._store.append(self._producer, appends)
        reasons = {rejection.stream: rejection.reason for rejection in rejections}
        for recording, append in zip(recordings, appends, strict=True):
            stream = recording.stream
            match reasons.get(stream.id):
                case None:
                    recording.written(append)
                    if append.ending is not None:
                        del self._recordings[stream.id]
                case "unknown":
                    # The store has lost its memory: it gets the stream again.
                    await self._store.create(stream.record, self._producer)
                    recording.forgotten()
                    self.changed(stream)
                case "stale":
                    recording.done.set()
                    del self._recordings[stream.id]
                    self._on_stale(stream)
