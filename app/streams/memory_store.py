"""The stream store in one process's memory: bounded in streams, tokens and age, gone with the process.

Everything happens synchronously on one event loop, so every call is atomic; only `renew` and `read` wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence

import msgspec

from app.ports import Clock
from app.streams.learning import Learning
from app.streams.store import MAX_CHANGES, Append, Excerpt, Idempotency, Order, Rejection, StreamRecord
from app.streams.store_bounds import StoreBounds
from app.streams.store_errors import (
    changed_too_often,
    key_conflict,
    store_full,
    store_learning,
    stream_expired,
    stream_not_found,
)
from app.streams.stored_stream import StoredStream
from app.wakeup import Wakeup

MAX_TOMBSTONES = 100_000
ORDER_AGAIN_S = 1.0
"""A change that is not made after this time is ordered again: the reply with the order may have been lost."""
CUT_LEASE_S = 0.25
"""What is left of a lease when a call of `renew` is cut: the producer has vanished, or calls again at once."""
_SWEEP_AT_MOST = 64


class StoreStatistics(msgspec.Struct, frozen=True):
    streams: int
    running: int
    tokens: int
    tombstones: int


class MemoryStreamStore:
    """Implements `app.streams.store.StreamStore`. Calls forget the streams past their time, a few with each call.

    `learning`: a store that takes the place of another one is told of running streams by their producers, one after the other.
    Until then it does not say of a stream that it does not exist, but `StoreUnavailable`.
    """

    def __init__(self, bounds: StoreBounds, clock: Clock, learning: Learning | None = None) -> None:
        self._bounds = bounds
        self._clock = clock
        self._learning = learning or Learning()
        self._streams: dict[str, StoredStream] = {}
        # In the order in which they expire: running streams by age, ended ones by retention.
        self._running: OrderedDict[str, None] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        # The owners of streams that are gone.
        self._tombstones: OrderedDict[str, str] = OrderedDict()
        # The stream and the digest of an owner's idempotency key.
        self._keys: dict[tuple[str, str], tuple[str, str]] = {}
        # By producer: when its lease ends, its orders, and its call of `renew` that waits.
        self._leases: dict[str, float] = {}
        self._orders: defaultdict[str, deque[Order]] = defaultdict(deque)
        self._renewing: dict[str, Wakeup] = {}
        # Streams with changes that are not made yet, and when those were last ordered.
        self._changing: dict[str, float] = {}
        self._tokens = 0

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(len(self._streams), len(self._running), self._tokens, len(self._tombstones))

    async def create(
        self, record: StreamRecord, producer: str, idempotency: Idempotency | None = None
    ) -> str:
        self._sweep()
        key = None if idempotency is None else (record.owner, idempotency.key)
        if key is not None and idempotency is not None and key in self._keys:
            first, digest = self._keys[key]
            if digest != idempotency.digest:
                raise key_conflict()
            return first
        if record.id in self._streams:
            return record.id
        bounds, tokens = self._bounds, len(record.prompt)
        while len(self._streams) >= bounds.max_streams or self._tokens + tokens > bounds.max_tokens:
            if not self._ended:
                raise store_full()
            self._forget(next(iter(self._ended)))
        self._renew(producer)
        now_s = self._clock.monotonic()
        stream = StoredStream(record, producer, now_s + bounds.max_age_s)
        self._streams[record.id] = stream
        self._running[record.id] = None
        self._tokens += tokens
        if key is not None and idempotency is not None:
            stream.idempotency = key
            self._keys[key] = (record.id, idempotency.digest)
        return record.id

    async def append(self, producer: str, appends: Sequence[Append]) -> list[Rejection]:
        self._renew(producer)
        self._learning.hears(producer)
        rejections = []
        for append in appends:
            stream = self._streams.get(append.stream)
            if stream is None or stream.lacks_tokens_before(append):
                rejections.append(Rejection(append.stream, "unknown"))
                continue
            if stream.producer != producer or stream.epoch != append.epoch:
                rejections.append(Rejection(append.stream, "stale"))
                continue
            if stream.ending is not None:
                continue
            self._tokens += stream.add(append.batches)
            if append.ending is not None:
                stream.ending = append.ending
                stream.change_orders.clear()
                stream.expires_s = self._clock.monotonic() + self._bounds.retention_s
                del self._running[append.stream]
                self._ended[append.stream] = None
            if stream.waiters:
                stream.wake()
        self._sweep()
        return rejections

    async def renew(self, producer: str, wait_s: float) -> list[Order]:
        self._renew(producer)
        if self._learning.asks(producer):
            return [Order("tell", "")]
        self._offer_orphans(producer)
        for stream_id, ordered_s in list(self._changing.items()):
            stream = self._streams.get(stream_id)
            if stream is None or not stream.change_orders:
                del self._changing[stream_id]
            elif stream.producer == producer and ordered_s + ORDER_AGAIN_S <= self._clock.monotonic():
                self._order_changes(stream)  # the producer has not made them: the order may be lost
        orders = self._orders[producer]
        if not orders and wait_s > 0:
            ordered = self._renewing[producer] = Wakeup()
            try:
                await self._wait(ordered, wait_s)
            except asyncio.CancelledError:
                cut_s = self._clock.monotonic() + CUT_LEASE_S
                self._leases[producer] = min(self._leases.get(producer, 0.0), cut_s)
                raise
            finally:
                if self._renewing.get(producer) is ordered:
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
        # The end of a choice alone is no news: counts do not say whether the reader knows it.
        fresh = any(batch.token_ids for batch in excerpt.batches)
        if wait_s > 0 and not (fresh or excerpt.ending is not None or excerpt.orphaned):
            changed = Wakeup()
            found.waiters.add(changed)
            try:
                await self._wait(changed, wait_s)
            finally:
                found.waiters.remove(changed)
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

    def _find(self, stream: str, owner: str | None = None) -> StoredStream:
        found = self._streams.get(stream)
        if found is not None and found.ending is not None and found.expires_s <= self._clock.monotonic():
            self._forget(stream)
            found = None
        if found is not None and owner in (None, found.record.owner):
            return found
        if found is None and stream in self._tombstones and owner in (None, self._tombstones[stream]):
            raise stream_expired()
        if found is None and not self._learning.is_over:
            raise store_learning()
        raise stream_not_found()

    def _excerpt(self, stream: StoredStream, counts: Sequence[int]) -> Excerpt:
        left_s = max(stream.expires_s - self._clock.monotonic(), 0.0)
        orphaned = stream.ending is None and self._is_gone(stream.producer)
        return Excerpt(stream.after(counts), stream.ending, orphaned, self._clock.time() + left_s)

    def _is_gone(self, producer: str) -> bool:
        return self._leases.get(producer, 0.0) <= self._clock.monotonic()

    def _renew(self, producer: str) -> None:
        self._leases[producer] = self._clock.monotonic() + self._bounds.lease_s

    def _order(self, producer: str, order: Order) -> None:
        self._orders[producer].append(order)
        if (ordered := self._renewing.get(producer)) is not None:
            ordered()

    def _order_changes(self, stream: StoredStream) -> None:
        for order in stream.change_orders.values():
            self._order(stream.producer, order)
        if stream.change_orders:
            self._changing[stream.record.id] = self._clock.monotonic()

    def _offer_orphans(self, producer: str) -> None:
        """Orders the producer to adopt orphaned streams that go on without a reader, each at most once in `lease_s`."""
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

    async def _wait(self, wakeup: Wakeup, wait_s: float) -> None:
        """Waits for `wakeup`, up to `wait_s` on the store's clock."""
        sleep = asyncio.ensure_future(self._clock.sleep(wait_s))
        sleep.add_done_callback(lambda _: wakeup())
        try:
            await wakeup.wait()
        finally:
            sleep.cancel()
