"""The readers of streams, in all processes together: how many there may be, and what becomes of a stream when the last has left.

Each process tells the store how many readers a stream has there, and hears how many it has elsewhere. Whoever begins a stream is
counted as its reader without a call, so that a stream with one reader costs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakValueDictionary

from app.errors import ServiceError, StoreUnavailable, TooManyReaders
from app.ports import Clock
from app.settings import StreamsSettings
from app.streams.reader import Reader
from app.streams.store import StreamStore
from app.streams.stream import Stream

RETRY_S = 0.25


class Audience:
    """The readers of the streams in the process `name`. `spawn` runs something as long as the service is open."""

    def __init__(
        self,
        settings: StreamsSettings,
        store: StreamStore,
        *,
        name: str,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._settings = settings
        self._store = store
        self._name = name
        self._clock = clock
        self._spawn = spawn
        self._telling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def expect(self, stream: Stream) -> None:
        """The store has the new stream of this process, and counts whoever began it unless that wants no frames."""
        stream.awaits_reader = not stream.request.detach
        stream.counted_readers = int(stream.awaits_reader)

    async def join(
        self,
        stream: Stream,
        after: str | None = None,
        *,
        ahead_tokens: int = 0,
        window_tokens: int | None = None,
    ) -> Reader:
        """One more reader of `stream`, see `Stream.reader`. A stream that has ended may have any number.

        Raises `InvalidCursor`, `Draining`, and `TooManyReaders` when the stream has as many as are allowed. A store that does
        not answer counts none elsewhere. A caller that is cancelled leaves no reader behind.
        """
        reader = stream.reader(after, ahead_tokens=ahead_tokens, window_tokens=window_tokens)
        if stream.awaits_reader:
            stream.awaits_reader = False
            return reader
        most = self._settings.max_readers
        try:
            readers = stream.readers if stream.readers > most else await self._all(stream)
            if readers > most and stream.ending is None:
                raise TooManyReaders(f"The stream has {most} readers already.", retry_after_s=1)
        except BaseException:
            reader.close()
            raise
        return reader

    def left(self, stream: Stream) -> None:
        """A reader of the stream has left, or whoever began it did not come for it."""
        if stream.ending is not None:
            return
        if stream.produced_here and not stream.readers and stream.request.on_disconnect != "continue":
            self._spawn(self._cancel_unread(stream))
        if stream.readers < stream.counted_readers:
            self._spawn(self._recount(stream))

    async def _cancel_unread(self, stream: Stream) -> None:
        """Cancels the stream when nobody has read it, here or through another process, for its time of grace."""
        visits = stream.visits

        def is_unread() -> bool:
            return stream.produced_here and stream.ending is None and stream.visits == visits

        while is_unread():
            if stream.request.on_disconnect == "grace":
                await self._clock.sleep(self._settings.grace_s)
            if is_unread() and not await self._elsewhere(stream) and is_unread():
                stream.cancel()
            while is_unread() and await self._elsewhere(stream):
                await self._clock.sleep(RETRY_S)

    async def _recount(self, stream: Stream) -> None:
        """Has the store count no more readers than there are."""
        while stream.ending is None and stream.readers < stream.counted_readers:
            try:
                await self._count(stream)
            except StoreUnavailable:
                await self._clock.sleep(RETRY_S)
            except ServiceError:
                return  # the store has lost the stream, and the count with it

    async def _all(self, stream: Stream) -> int:
        """The readers of a stream that runs, in all processes; 0 of one that has ended."""
        if stream.ending is not None:
            return 0
        elsewhere = await self._elsewhere(stream)
        return stream.readers + elsewhere

    async def _elsewhere(self, stream: Stream) -> int:
        """The readers that other processes have; none when the store does not say."""
        try:
            return await self._count(stream)
        except ServiceError:
            return 0

    async def _count(self, stream: Stream) -> int:
        """Tells the store how many readers the stream has here, and returns how many it has elsewhere."""
        # One call at a time: what the store is told last is to be the latest.
        lock = self._telling.setdefault(stream.id, asyncio.Lock())
        async with lock:
            readers, stream.awaits_reader = stream.readers, False
            elsewhere = await self._store.count_readers(stream.id, self._name, readers)
            stream.counted_readers = readers
            return elsewhere
