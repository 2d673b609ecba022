"""The readers of streams in all processes together: how many a stream may have, and what its end is when the last has left.

Each process tells the stream store how many readers a stream has there, and hears how many it has elsewhere. The caller that
starts a stream is counted as its reader without a call, so a stream with one reader costs none.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from app.backoff import Backoff
from app.errors import ServiceError, StoreUnavailable, TooManyReaders
from app.ports import Clock
from app.settings import StreamsSettings
from app.streams.reader import Reader
from app.streams.store import StreamStore
from app.streams.stream import Stream
from app.tasks import Tasks

RETRY_S = 0.25


class Audience:
    """The readers of the streams in the process `name`."""

    def __init__(
        self, settings: StreamsSettings, store: StreamStore, *, name: str, clock: Clock, tasks: Tasks
    ) -> None:
        self._settings = settings
        self._store = store
        self._name = name
        self._clock = clock
        self._tasks = tasks
        self._telling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def expect(self, stream: Stream) -> None:
        """The store has the new stream, and counts its first reader, unless the request wants no frames."""
        stream.readers.expected = not stream.request.detach
        stream.readers.counted = int(stream.readers.expected)

    async def join(
        self,
        stream: Stream,
        after: str | None = None,
        *,
        ahead_tokens: int = 0,
        window_tokens: int | None = None,
    ) -> Reader:
        """One more reader of `stream`, see `Readers.join`. A stream that has ended may have any number.

        Raises `InvalidCursor`, `Draining`, and `TooManyReaders` when the stream has the maximum. While the store does
        not answer, readers elsewhere do not count. A caller that is cancelled leaves no reader in the stream.
        """
        reader = stream.readers.join(after, ahead_tokens=ahead_tokens, window_tokens=window_tokens)
        if stream.readers.expected:
            stream.readers.expected = False
            return reader
        most = self._settings.max_readers
        try:
            readers = len(stream.readers)
            if readers <= most and stream.ending is None:
                elsewhere = await self._elsewhere(stream)
                readers = len(stream.readers) + elsewhere
            if readers > most and stream.ending is None:
                raise TooManyReaders(f"The stream has {most} readers already, the maximum.", retry_after_s=1)
        except BaseException:
            reader.close()
            raise
        return reader

    def left(self, stream: Stream) -> None:
        """A reader of the stream has left, or its first reader will not come."""
        if stream.ending is not None or self._tasks.closed:
            return
        if stream.produced_here and not stream.readers and stream.request.on_disconnect != "continue":
            self._tasks.start(self._cancel_unread(stream))
        if len(stream.readers) < stream.readers.counted:
            self._tasks.start(self._recount(stream))

    async def _cancel_unread(self, stream: Stream) -> None:
        """Cancels the stream when it has had no reader, here or elsewhere, for its time of grace."""
        visits = stream.readers.visits

        def is_unread() -> bool:
            return stream.produced_here and stream.ending is None and stream.readers.visits == visits

        while is_unread():
            if stream.request.on_disconnect == "grace":
                await self._clock.sleep(self._settings.grace_s)
            if is_unread() and not await self._elsewhere(stream) and is_unread():
                stream.cancel()
            while is_unread() and await self._elsewhere(stream):
                await self._clock.sleep(RETRY_S)

    async def _recount(self, stream: Stream) -> None:
        """Has the store count no more readers than there are."""
        backoff = Backoff(RETRY_S, sleep=self._clock.sleep)
        while stream.ending is None and len(stream.readers) < stream.readers.counted:
            try:
                await self._count(stream)
            except StoreUnavailable:
                await backoff.pause()
            except ServiceError:
                return  # the store has lost the stream, and the count with it

    async def _elsewhere(self, stream: Stream) -> int:
        """The readers that other processes have; none while the store does not answer."""
        try:
            return await self._count(stream)
        except ServiceError:
            return 0

    async def _count(self, stream: Stream) -> int:
        """Tells the store how many readers the stream has here, and returns how many it has elsewhere."""
        # One call at a time: the last number that the store hears must be the latest.
        async with self._telling.setdefault(stream.id, asyncio.Lock()):
            readers, stream.readers.expected = len(stream.readers), False
            elsewhere = await self._store.count_readers(stream.id, self._name, readers)
            stream.readers.counted = readers
            return elsewhere
