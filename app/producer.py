"""The producer: generates the streams that this process has the lease of, records them, and carries out the store's orders.

There is one way to recover, whatever was lost: a new attempt from the request and the tokens so far. An accepted stream is
never given up for want of room; only a row of attempts that brought nothing ends it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from app.errors import GeneratorUnavailable, InternalError, Overloaded, RequestTimeout, ServiceError
from app.model import Model
from app.ports import Clock
from app.settings import Settings
from app.streams.recorder import Recorder
from app.streams.store import Order, StreamStore
from app.streams.stream import Stream

logger = logging.getLogger(__name__)

MAX_FRUITLESS_ATTEMPTS = 6
RETRY_S = 0.25
ORDERS_WAIT_S = 1.0
MAX_EARLY_ORDERS = 100


class Producer:
    """Drives streams. `streams` are those that it has the lease of; `ingress` is its name to the generators and the store.

    `store_answers` says whether the store did, when it was last asked for orders.
    """

    def __init__(
        self,
        settings: Settings,
        store: StreamStore,
        *,
        ingress: str,
        clock: Clock,
        on_taken_over: Callable[[Stream], None],
        on_orphan: Callable[[str], None],
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self.store_answers = False
        self.recorder = Recorder(store, ingress, clock, on_stale=self._yield)
        self._settings = settings
        self._store = store
        self._ingress = ingress
        self._clock = clock
        self._on_taken_over = on_taken_over
        self._on_orphan = on_orphan
        self._keys = itertools.count(1)
        # Orders for streams that are not produced here, or not yet: an order may come before the answer that gives the lease.
        self._early: deque[Order] = deque(maxlen=MAX_EARLY_ORDERS)

    async def drive(
        self, stream: Stream, model: Model, announce: Callable[[], Awaitable[bool]] | None = None
    ) -> None:
        """Generates until the stream has its ending, or another process has taken the lease.

        `announce` is awaited when a generator has accepted the first attempt; the stream goes on if it returns true. Errors
        become the stream's ending; only those before the announcement are raised.
        """
        try:
            await self._generate(stream, model, announce)
        except ServiceError as error:
            if not stream.produced_here:
                raise
            stream.fail(error)
        except TimeoutError:
            stream.fail(RequestTimeout("The stream did not end within its time limit."))
        except Exception:
            if not stream.produced_here:
                raise
            logger.exception("the generation of a stream broke")
            stream.fail(InternalError("The server failed to generate this stream."))

    async def conclude(self, stream: Stream) -> None:
        """Returns when the store has the ending, and forgets the stream: who reads it later is served from the store."""
        await self.recorder.flush(stream)
        if self.streams.get(stream.id) is stream:
            del self.streams[stream.id]

    def own(self, stream: Stream, epoch: int, logged: list[int]) -> None:
        """This process has the lease of the stream; the store has the first `logged` tokens of its choices."""
        self.streams[stream.id] = stream
        self.recorder.start(stream, epoch, logged)
        stream.drive(taken_over=epoch > 1)
        for order in [order for order in self._early if order.stream == stream.id]:
            self._early.remove(order)
            self.obey(order)

    async def keep_leases(self) -> None:
        """Keeps the lease of this process's streams and carries out the store's orders, until cancelled."""
        while True:
            try:
                # At first, and after a failure, the answer itself is the news.
                wait_s = ORDERS_WAIT_S if self.store_answers else 0.0
                orders = await self._store.renew(self._ingress, wait_s)
                self.store_answers = True
                for order in orders:
                    self.obey(order)
            except ServiceError as error:
                self.store_answers = False
                logger.warning("the stream store gives no orders: %s", error.message)
                await self._clock.sleep(RETRY_S)

    async def _generate(
        self, stream: Stream, model: Model, announce: Callable[[], Awaitable[bool]] | None
    ) -> None:
        fruitless = 0
        async with asyncio.timeout(stream.request.timeout_s or self._settings.limits.request_timeout_s):
            while stream.ending is None:
                counts = stream.counts
                try:
                    job = stream.job(self._ingress, next(self._keys))
                    async with model.generator.open(job, stream) as generation:
                        stream.accept(generation)
                        if announce is not None and not await announce():
                            return
                        announce = None
                        await stream.settled()
                except (GeneratorUnavailable, Overloaded):
                    if announce is not None or fruitless == MAX_FRUITLESS_ATTEMPTS:
                        raise
                if not stream.produced_here:
                    return
                fruitless = 0 if stream.counts != counts else fruitless + 1
                if fruitless > 1:
                    await self._clock.sleep(RETRY_S * fruitless)

    def _yield(self, stream: Stream) -> None:
        """Another process has the lease by now: this one stops.

        What it has of the stream stays true, unless it was changed here without the store's knowing: then its readers are cut
        off, who have seen nothing of that.
        """
        self.streams.pop(stream.id, None)
        stream.stand_by()
        if stream.changes.barrier is None:
            self._on_taken_over(stream)
        else:
            stream.cut()

    def obey(self, order: Order) -> None:
        """Carries out an order, once the stream is produced here. One that was carried out before does nothing."""
        stream = self.streams.get(order.stream)
        if order.action == "adopt":
            self._on_orphan(order.stream)
        elif stream is None:
            self._early.append(order)
        elif order.change is not None:
            stream.change(order.change)
        else:
            stream.cancel("stop" if order.action == "stop" else "cancelled")
