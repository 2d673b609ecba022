"""The stream store in one process's memory: bounded in streams, tokens and age, gone with the process.

Everything happens synchronously on one event loop, so every call is atomic; only `renew` and `read` wait.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence

import msgspec

from app.errors import IdempotencyConflict, Overloaded, StreamExpired, StreamNotFound
from app.ports import Clock
from app.schema.frames import End, Error
from app.schema.tokens import Edit, EngineFinish, TokenBatch, TokenLogprob
from app.streams.store import (
    MAX_CHANGES,
    Append,
    Excerpt,
    Idempotency,
    Order,
    Refusal,
    StreamRecord,
    changed_too_often,
)

MAX_TOMBSTONES = 100_000
# A change that was ordered and not made is ordered again after this time: the answer with the order may have been lost.
ORDER_AGAIN_S = 1.0
_SWEEP_AT_MOST = 64


class StoreBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much a log keeps. `retention_s` counts from a stream's ending, `lease_s` from a producer's last sign of life."""

    max_streams: int = 10_000
    max_tokens: int = 20_000_000
    retention_s: float = 600.0
    max_age_s: float = 7_200.0
    lease_s: float = 3.0


class LogStatistics(msgspec.Struct, frozen=True):
    streams: int
    running: int
    tokens: int
    tombstones: int


class _Choice:
    """The tokens of one choice, the edits among them, and how the engine ended it."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.edits: dict[str, Edit] = {}
        self.finish: EngineFinish | None = None
        self.stop_token: int | None = None

    def add(self, batch: TokenBatch) -> int:
        """Takes what is new in `batch`, which leaves no gap; returns how many tokens that was."""
        known = len(self.token_ids) - batch.position
        fresh = batch.token_ids[known:] if known else batch.token_ids
        self.token_ids += fresh
        if batch.logprobs is not None:
            self.logprobs.extend(batch.logprobs[known:])
        if batch.edits is not None:
            for edit in batch.edits:
                self.edits.setdefault(edit.id, edit)
        if batch.finish is not None:
            self.finish, self.stop_token = batch.finish, batch.stop_token
        return len(fresh)

    def behind(self, index: int, count: int) -> TokenBatch | None:
        """What lies behind the first `count` tokens, None when nothing does. The ending belongs to the last token.

        Edits that lie just there are told again, for the count does not say whether they are known.
        """
        edits = [edit for edit in self.edits.values() if edit.end >= count]
        if count >= len(self.token_ids) and (self.finish is None or self.token_ids) and not edits:
            return None
        logprobs = self.logprobs[count:] if self.logprobs else None
        return TokenBatch(
            *(
                0,
                index,
                count,
                self.token_ids[count:],
                self.finish,
                self.stop_token,
                logprobs,
                None,
                edits or None,
            )
        )


class _Stream:
    def __init__(self, record: StreamRecord, producer: str, expires_s: float) -> None:
        self.record = record
        self.producer = producer
        self.epoch = 1
        self.choices = [_Choice() for _ in range(record.request.n)]
        self.ending: End | Error | None = None
        self.expires_s = expires_s
        # Orders that are not carried out yet: to end it, and to change it, by the change's id.
        self.end_order: Order | None = None
        self.change_orders: dict[str, Order] = {}
        self.changes = 0
        self.readers = {producer: int(not record.request.detach)}
        self.offered_s = -math.inf
        self.idempotency: tuple[str, str] | None = None
        self.waiters: list[asyncio.Future[None]] = []

    @property
    def tokens(self) -> int:
        return len(self.record.prompt) + sum(len(choice.token_ids) for choice in self.choices)

    def lacks_tokens_before(self, append: Append) -> bool:
        for batch in append.batches:  # noqa: SIM110 - a generator costs more than the rest
            if batch.position > len(self.choices[batch.choice].token_ids):
                return True
        return False

    def add(self, batches: Sequence[TokenBatch]) -> int:
        """Takes what is new in `batches`, which leave no gap; returns how many tokens that was."""
        tokens = 0
        for batch in batches:
            tokens += self.choices[batch.choice].add(batch)
            if batch.edits is not None:
                for edit in batch.edits:
                    self.change_orders.pop(edit.id, None)
        return tokens

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


class MemoryStreamStore:
    """Implements `app.streams.store.StreamStore`. Streams past their time leave a few at a time, with whatever call comes."""

    def __init__(self, bounds: StoreBounds, clock: Clock) -> None:
        self._bounds = bounds
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        # In the order in which they expire: running streams by age, ended ones by retention.
        self._running: OrderedDict[str, None] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._tombstones: OrderedDict[str, str] = OrderedDict()
        self._keys: dict[tuple[str, str], tuple[str, str]] = {}
        self._leases: dict[str, float] = {}
        self._orders: defaultdict[str, deque[Order]] = defaultdict(deque)
        # Streams whose changes are not made yet, by when those were last ordered.
        self._changing: dict[str, float] = {}
        self._renewing: dict[str, asyncio.Future[None]] = {}
        self._tokens = 0

    def statistics(self) -> LogStatistics:
        return LogStatistics(len(self._streams), len(self._running), self._tokens, len(self._tombstones))

    async def create(
        self, record: StreamRecord, producer: str, idempotency: Idempotency | None = None
    ) -> str:
        self._sweep()
        key = None if idempotency is None else (record.owner, idempotency.key)
        if key is not None and idempotency is not None and key in self._keys:
            first, digest = self._keys[key]
            if digest != idempotency.digest:
                raise IdempotencyConflict(
                    "This Idempotency-Key was used for another body.", param="Idempotency-Key"
                )
            return first
        if record.id in self._streams:
            return record.id
        self._make_room(len(record.prompt))
        self._renew(producer)
        now_s = self._clock.monotonic()
        stream = _Stream(record, producer, now_s + self._bounds.max_age_s)
        self._streams[record.id] = stream
        self._running[record.id] = None
        self._tokens += stream.tokens
        if key is not None and idempotency is not None:
            stream.idempotency = key
            self._keys[key] = (record.id, idempotency.digest)
        return record.id

    async def append(self, producer: str, appends: Sequence[Append]) -> list[Refusal]:
        self._renew(producer)
        refused = []
        for append in appends:
            stream = self._streams.get(append.stream)
            if stream is None or stream.lacks_tokens_before(append):
                refused.append(Refusal(append.stream, "unknown"))
                continue
            if stream.producer != producer or stream.epoch != append.epoch:
                refused.append(Refusal(append.stream, "stale"))
                continue
            if stream.ending is not None:
                continue
            self._tokens += stream.add(append.batches)
            if append.ending is not None:
                self._end(stream, append.ending)
            if stream.waiters:
                stream.wake()
        self._sweep()
        return refused

    async def renew(self, producer: str, wait_s: float) -> list[Order]:
        self._renew(producer)
        self._adopt_for(producer)
        self._order_again(producer)
        orders = self._orders[producer]
        if not orders and wait_s > 0:
            called = self._renewing[producer] = asyncio.get_running_loop().create_future()
            try:
                await self._within(wait_s, called)
            except asyncio.CancelledError:
                # The call was cut: the producer has vanished, unless it calls again very soon.
                self._leases[producer] = min(self._leases.get(producer, 0.0), self._clock.monotonic() + 0.25)
                raise
            finally:
                if self._renewing.get(producer) is called:
                    del self._renewing[producer]
            self._renew(producer)
        taken = list(orders)
        orders.clear()
        return taken

    async def record(self, stream: str, owner: str | None = None) -> StreamRecord:
        return self._find(stream, owner).record

    async def read(self, stream: str, counts: Sequence[int], wait_s: float = 0.0) -> Excerpt:
        found = self._find(stream)
        excerpt = self._excerpt(found, counts)
        # That a choice has ended is no news by itself: counts do not say whether the reader knows.
        fresh = any(batch.token_ids for batch in excerpt.batches)
        if wait_s > 0 and not (fresh or excerpt.ending is not None or excerpt.orphaned):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            found.waiters.append(waiter)
            await self._within(wait_s, waiter)
            excerpt = self._excerpt(found, counts)
        return excerpt

    async def take(self, stream: str, producer: str) -> int | None:
        found = self._find(stream)
        if found.ending is not None or not self._is_gone(found.producer):
            return None
        self._renew(producer)
        found.producer = producer
        found.epoch += 1
        self._order_changes(found)
        if found.end_order is not None:
            self._order(producer, found.end_order)
        found.wake()
        return found.epoch

    async def count_readers(self, stream: str, process: str, readers: int) -> int:
        found = self._find(stream)
        if found.ending is not None:
            return 0
        self._renew(process)
        found.readers[process] = readers
        return sum(
            count for name, count in found.readers.items() if name != process and not self._is_gone(name)
        )

    async def order(self, order: Order) -> bool:
        found = self._find(order.stream)
        if found.ending is not None:
            return False
        if order.change is None:
            found.end_order = found.end_order or order
        elif order.change.id in found.change_orders:
            return True
        elif found.changes >= MAX_CHANGES:
            raise changed_too_often()
        else:
            found.changes += 1
            found.change_orders[order.change.id] = order
            self._changing[order.stream] = self._clock.monotonic()
        self._order(found.producer, order)
        return True

    # Inside.

    def _find(self, stream: str, owner: str | None = None) -> _Stream:
        found = self._streams.get(stream)
        if found is not None and found.ending is not None and found.expires_s <= self._clock.monotonic():
            self._forget(stream)  # though nobody has swept since
            found = None
        if found is not None and owner in (None, found.record.owner):
            return found
        if found is None and stream in self._tombstones and owner in (None, self._tombstones[stream]):
            raise StreamExpired("The stream is past its retention.")
        raise StreamNotFound("There is no such stream.")

    def _excerpt(self, stream: _Stream, counts: Sequence[int]) -> Excerpt:
        batches = [
            batch
            for index, choice in enumerate(stream.choices)
            if (batch := choice.behind(index, counts[index])) is not None
        ]
        lasts_s = max(stream.expires_s - self._clock.monotonic(), 0.0)
        expires_s = self._clock.time() + lasts_s
        orphaned = stream.ending is None and self._is_gone(stream.producer)
        return Excerpt(batches, stream.ending, orphaned, expires_s)

    def _is_gone(self, producer: str) -> bool:
        return self._leases.get(producer, 0.0) <= self._clock.monotonic()

    def _renew(self, producer: str) -> None:
        self._leases[producer] = self._clock.monotonic() + self._bounds.lease_s

    def _order(self, producer: str, order: Order) -> None:
        self._orders[producer].append(order)
        called = self._renewing.get(producer)
        if called is not None and not called.done():
            called.set_result(None)

    def _order_changes(self, stream: _Stream) -> None:
        for order in stream.change_orders.values():
            self._order(stream.producer, order)
        if stream.change_orders:
            self._changing[stream.record.id] = self._clock.monotonic()

    def _order_again(self, producer: str) -> None:
        """Repeats the orders for changes that the producer should have made by now."""
        for stream_id, ordered_s in list(self._changing.items()):
            stream = self._streams.get(stream_id)
            if stream is None or not stream.change_orders:
                del self._changing[stream_id]
            elif stream.producer == producer and ordered_s + ORDER_AGAIN_S <= self._clock.monotonic():
                self._order_changes(stream)

    def _adopt_for(self, producer: str) -> None:
        """Gives the producer the streams without one that are to go on without a reader. Looks at the dead producers' only."""
        now_s = self._clock.monotonic()
        dead = {name for name, lease_s in self._leases.items() if lease_s <= now_s}
        if not dead:
            return
        for stream_id in self._running:
            stream = self._streams[stream_id]
            if (
                stream.producer in dead
                and stream.record.request.on_disconnect == "continue"
                and stream.offered_s + self._bounds.lease_s <= now_s
            ):
                stream.offered_s = now_s
                self._orders[producer].append(Order("adopt", stream_id))
        for name in dead:
            if not any(self._streams[stream_id].producer == name for stream_id in self._running):
                del self._leases[name]
                self._orders.pop(name, None)

    def _end(self, stream: _Stream, ending: End | Error) -> None:
        stream.ending = ending
        stream.change_orders.clear()
        stream.expires_s = self._clock.monotonic() + self._bounds.retention_s
        del self._running[stream.record.id]
        self._ended[stream.record.id] = None

    def _make_room(self, tokens: int) -> None:
        bounds = self._bounds
        while len(self._streams) >= bounds.max_streams or self._tokens + tokens > bounds.max_tokens:
            if not self._ended:
                raise Overloaded(
                    "The stream store is full of running streams. Try again later.", retry_after_s=1
                )
            self._forget(next(iter(self._ended)))

    def _sweep(self) -> None:
        """Forgets streams past their time: a few with each call, so that no call takes long."""
        now_s = self._clock.monotonic()
        for queue in (self._ended, self._running):
            for _ in range(_SWEEP_AT_MOST):
                oldest = next(iter(queue), None)
                if oldest is None or self._streams[oldest].expires_s > now_s:
                    break
                self._forget(oldest)

    def _forget(self, stream_id: str) -> None:
        stream = self._streams.pop(stream_id)
        self._running.pop(stream_id, None)
        self._ended.pop(stream_id, None)
        self._tokens -= stream.tokens
        self._tombstones[stream_id] = stream.record.owner
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)
        if stream.idempotency is not None:
            self._keys.pop(stream.idempotency, None)
        stream.wake()

    async def _within(self, wait_s: float, future: asyncio.Future[None]) -> None:
        """Waits for `future`, at most `wait_s` on the store's clock."""
        sleep = asyncio.ensure_future(self._clock.sleep(wait_s))
        try:
            await asyncio.wait([sleep, future], return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            future.cancel()
