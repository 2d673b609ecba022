"""The follower: streams that another process produces, fed from the stream store for their readers here."""

from __future__ import annotations

import logging

from app.backoff import Backoff
from app.errors import ServiceError, StoreUnavailable, StreamExpired, StreamNotFound
from app.models import Models
from app.ports import Clock
from app.producer import Producer
from app.streams.store import StreamStore
from app.streams.stream import Stream
from app.tasks import Tasks

logger = logging.getLogger(__name__)

FOLLOW_WAIT_S = 1.0
RETRY_S = 0.25
# How long a stream is followed when its last reader here has left: a reader may come back.
WATCHED_S = 2 * FOLLOW_WAIT_S
# How long readers wait for a store that does not answer, or that has lost its memory until the producer tells it again.
STORE_PATIENCE_S = 10.0


class Follower:
    """`streams` are those that are followed now. One whose producer is gone is handed to this process's own producer."""

    def __init__(
        self, models: Models, store: StreamStore, producer: Producer, *, clock: Clock, tasks: Tasks
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self._models = models
        self._store = store
        self._producer = producer
        self._clock = clock
        self._tasks = tasks

    async def find(self, stream_id: str, owner: str) -> Stream:
        """The stream, wherever it is produced; one that has not ended is followed if that is not here.

        Raises `StreamNotFound`, also for another owner's stream, `StreamExpired`, and `StoreUnavailable`.
        """
        stream = self._here(stream_id)
        if stream is not None and stream.record.owner == owner:
            return stream
        record = await self._store.record(stream_id, owner)
        model = await self._models.loaded(record.request.model)
        excerpt = await self._store.read(stream_id, [0] * record.request.n)
        stream = self._here(stream_id)
        if stream is None:
            stream = self._producer.stream_of(record, model, excerpt)
            if stream.ending is None:
                self.follow(stream)
        return stream

    def follow(self, stream: Stream) -> None:
        """Feeds the stream from the store from now on. Returns at once."""
        if not self._tasks.closed:
            self.streams[stream.id] = stream
            self._tasks.start(self._run(stream))

    def _here(self, stream_id: str) -> Stream | None:
        return self._producer.streams.get(stream_id) or self.streams.get(stream_id)

    async def _run(self, stream: Stream) -> None:
        """Follows the stream to its end. Its readers are cut off when the store, which may know more of it, does not answer."""
        backoff = Backoff(RETRY_S, sleep=self._clock.sleep)
        deserted_s = 0.0
        try:
            while stream.ending is None and deserted_s < WATCHED_S and not stream.readers.are_cut_off:
                try:
                    excerpt = await self._store.read(stream.id, stream.counts, FOLLOW_WAIT_S)
                    stream.absorb(excerpt)
                    orphaned = excerpt.orphaned and not stream.readers.are_cut_off
                    if orphaned and await self._producer.take(stream):
                        self.streams.pop(stream.id, None)
                        await self._producer.finish(stream)
                        return
                except (StoreUnavailable, StreamNotFound, StreamExpired):
                    if stream.produced_here or backoff.waited_s >= STORE_PATIENCE_S:
                        raise
                    await backoff.pause()
                    continue
                backoff.reset()
                deserted_s = 0.0 if stream.readers else deserted_s + FOLLOW_WAIT_S
        except StoreUnavailable as error:
            logger.warning("the stream %s can't be followed: %s", stream.id, error.message)
            stream.readers.cut_off()
        except ServiceError as error:
            stream.fail(error)
        finally:
            if self.streams.get(stream.id) is stream:
                del self.streams[stream.id]
