"""Orders for running streams: changed or ended, wherever they are produced."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from typing import Literal

import msgspec

from app.backoff import Backoff
from app.errors import InvalidRequest, PromptTooLong, StoreUnavailable, StreamEnded, StreamNotFound, draining
from app.follower import Follower
from app.ports import Clock
from app.producer import Producer
from app.schema.fields import MAX_STOP_STRING_LENGTH, MAX_STOP_STRINGS
from app.streams.store import CHANGE_ID_LENGTH, Change, Order, StreamStore
from app.streams.stream import Stream
from app.tasks import Tasks

ORDER_RETRIES = 2
RETRY_S = 0.25
# How often a stream of another process is ordered to end, in case its producer changes meanwhile.
CANCEL_AGAIN_S = 0.25


def added_stops(stream: Stream, stops: Sequence[str]) -> Change | None:
    """The stop strings that the stream does not have yet; None when it has all.

    Raises `InvalidRequest` for strings that no request may have, and when they would be too many with those that it has.
    """
    if not stops or not all(0 < len(stop) <= MAX_STOP_STRING_LENGTH for stop in stops):
        raise InvalidRequest(
            f"stop must be strings of 1 to {MAX_STOP_STRING_LENGTH} characters, at least one.", param="stop"
        )
    known = {*stream.request.stop, *stream.changes.stops}
    fresh = [stop for stop in dict.fromkeys(stops) if stop not in known]
    if len(known) + len(fresh) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"The stream may have at most {MAX_STOP_STRINGS} stop strings, and has {len(known)}.",
            param="stop",
        )
    if not fresh:
        return None
    # The same strings twice are one change, also while the first one still waits.
    digest = hashlib.sha256(msgspec.msgpack.encode(fresh)).hexdigest()
    return Change(id=digest[:CHANGE_ID_LENGTH], stops=fresh)


def steered(stream: Stream, token_ids: Sequence[int], max_tokens: int) -> Change:
    """The steering of the stream with the tokens of a text. Raises `InvalidRequest` for none, `PromptTooLong` for too many."""
    if not token_ids:
        raise InvalidRequest("text has no tokens.", param="text")
    if len(token_ids) > max_tokens:
        raise PromptTooLong(
            f"text has {len(token_ids)} tokens, {len(token_ids) - max_tokens} more than the {max_tokens} that are allowed.",
            param="text",
        )
    # The engine cuts off what goes beyond the end of a choice; no choice can take more than this.
    return Change(
        id=secrets.token_hex(CHANGE_ID_LENGTH // 2),
        token_ids=list(token_ids[: stream.record.sampling.max_tokens]),
    )


def stream_ended() -> StreamEnded:
    """The error for a change that comes too late."""
    return StreamEnded("The stream has ended: it can't be changed.")


class StreamOrders:
    """Has streams changed or ended by the process that produces them. `producer` and `follower` are those of this process."""

    def __init__(
        self, store: StreamStore, producer: Producer, follower: Follower, *, clock: Clock, tasks: Tasks
    ) -> None:
        self._store = store
        self._producer = producer
        self._follower = follower
        self._clock = clock
        self._tasks = tasks

    async def running(self, stream_id: str, owner: str) -> Stream:
        """The stream. Raises `StreamEnded` when it has ended, and as `Follower.find` does."""
        stream = await self._follower.find(stream_id, owner)
        if stream.ending is not None:
            raise stream_ended()
        return stream

    async def end(self, action: Literal["cancel", "stop"], stream_id: str, owner: str) -> None:
        """Ends the stream; returns when it has ended. Raises as `Follower.find` does, and `Draining`."""
        order = Order(action, stream_id)
        while (stream := await self._follower.find(stream_id, owner)).ending is None:
            if stream.produced_here:
                self._producer.obey(order)
                continue
            # Its producer may be gone. Then it ends with the process that takes the lease, which may be this one.
            await self._store.order(order)
            await self._ended_within(stream, CANCEL_AGAIN_S)
            if self._tasks.closed:
                raise draining()

    async def change(self, stream: Stream, change: Change) -> None:
        """Has the stream changed by the process that produces it, now or later. Here it is changed at once.

        Returns when the store has the order. Raises `StreamEnded`, `StreamNotFound`, `StreamExpired` and `InvalidRequest`. After
        `StoreUnavailable`, and when it is cancelled, the stream may still be changed.
        """
        order = Order("change", stream.id, change)
        backoff = Backoff(RETRY_S, sleep=self._clock.sleep)
        try:
            for retries_left in reversed(range(ORDER_RETRIES + 1)):
                try:
                    if not await self._store.order(order):
                        raise stream_ended()
                    break
                except StoreUnavailable:  # whether it has arrived is unknown, and it may come twice
                    if not retries_left:
                        raise
                    await backoff.pause()
        except StreamNotFound:
            # The store has lost its memory. A producer tells it its streams again, with their changes.
            if not stream.produced_here:
                raise
        if stream.produced_here:
            self._producer.obey(order)

    async def _ended_within(self, stream: Stream, duration_s: float) -> None:
        """Returns when the stream has ended, at the latest after `duration_s` seconds."""
        waits = [
            asyncio.ensure_future(stream.ended()),
            asyncio.ensure_future(self._clock.sleep(duration_s)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
