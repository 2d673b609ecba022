"""What somebody wants changed in a running stream: checked, made into a `Change`, and ordered of whoever drives the stream."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

import msgspec

from app.errors import InvalidRequest, PromptTooLong, StoreUnavailable, StreamEnded, StreamNotFound
from app.ports import Clock
from app.producer import Producer
from app.schema.fields import MAX_STOP_STRING_LENGTH, MAX_STOP_STRINGS
from app.streams.store import CHANGE_ID_LENGTH, Change, Order, StreamStore
from app.streams.stream import Stream

ORDER_RETRIES = 2
RETRY_S = 0.25


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
    # The same strings twice are one change, also when nobody knows yet that they were added.
    digest = hashlib.sha256(msgspec.msgpack.encode(fresh)).hexdigest()
    return Change(id=digest[:CHANGE_ID_LENGTH], stops=fresh)


def put_in(stream: Stream, token_ids: Sequence[int], max_tokens: int) -> Change:
    """The tokens of a text that is put into the stream. Raises `InvalidRequest` for none, `PromptTooLong` for too many."""
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


def check_running(running: bool) -> None:
    """Raises `StreamEnded` unless `running`."""
    if not running:
        raise StreamEnded("The stream has ended: nothing can be changed in it.")


class StreamChanger:
    """Has streams changed, wherever they are produced_here. `producer` is the one of this process."""

    def __init__(self, store: StreamStore, producer: Producer, clock: Clock) -> None:
        self._store = store
        self._producer = producer
        self._clock = clock

    async def change(self, stream: Stream, change: Change) -> None:
        """Has the stream changed by whoever drives it now or later. What is produced here is changed at once.

        Returns when the store has the order. Raises `StreamEnded`, `StreamNotFound`, `StreamExpired` and `InvalidRequest`;
        after `StoreUnavailable`, and when it is cancelled, the stream may be changed yet.
        """
        order = Order("change", stream.id, change)
        try:
            check_running(await self._order(order))
        except StreamNotFound:
            # The store has lost its memory: it is told anew, with the change, unless it was another process's stream.
            if not stream.produced_here:
                raise
        if stream.produced_here:
            self._producer.obey(order)

    async def _order(self, order: Order) -> bool:
        """Gives an order to the store, which may be repeated while nobody knows whether it arrived."""
        for _ in range(ORDER_RETRIES):
            try:
                return await self._store.order(order)
            except StoreUnavailable:
                await self._clock.sleep(RETRY_S)
        return await self._store.order(order)
