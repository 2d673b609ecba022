"""The stream store in Redis: shared by any number of processes, and as durable as the server is configured to be.

Every call is one script, so it happens whole or not at all. The client repeats a call that fails, a few times and quickly; then
the call raises `StoreUnavailable`. Every call may be repeated. A creation or takeover of unknown outcome is undone with the next
`renew`. One subscription for the process wakes the calls that wait; they also look by themselves every `POLL_S`.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from app.streams.redis.append_arguments import append_arguments
from app.streams.redis.doubts import Doubts
from app.streams.redis.replies import (
    ORDER_LETTERS,
    GivenOrder,
    check_status,
    decode_orders,
    decode_record,
    decode_rejections,
)
from app.streams.redis.scripts import Scripts
from app.streams.redis.shared_reads import SharedReads
from app.streams.redis.wakeups import Wakeups
from app.streams.store import Append, Excerpt, Idempotency, Order, Rejection, StreamRecord
from app.streams.store_bounds import StoreBounds
from app.streams.store_errors import (
    changed_too_often,
    key_conflict,
    store_full,
    stream_expired,
    stream_not_found,
)
from app.wakeup import Wakeup

POLL_S = 1.0
"""A call that waits misses a lost wake-up for this long."""
MAX_CONNECTIONS = 8
_CHANGED_TOO_OFTEN = 3

_encode = msgspec.msgpack.Encoder().encode


class RedisStreamStore:
    """Implements `app.streams.store.StreamStore` on the server at `url` (`redis://`, `rediss://` or `unix://`).

    After a stream is gone, the server knows for `tombstone_s` that it was there. All processes that share the streams must have
    the same `bounds` and `prefix`. Belongs to one event loop; connects with the first call.
    """

    def __init__(
        self, url: str, bounds: StoreBounds, *, prefix: str = "streams:", tombstone_s: float = 86_400.0
    ) -> None:
        self._process = secrets.token_hex(8)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=5.0,
            protocol=2,
            decode_responses=False,
            socket_timeout=2.0,
            socket_connect_timeout=2.0,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2, (RedisConnectionError,)),
        )
        self._redis = Redis.from_pool(pool)
        self._scripts = Scripts(self._redis, prefix, bounds, tombstone_s)
        self._reads = SharedReads(self._scripts, self._process)
        self._wakeups = Wakeups(self._redis, f"{prefix}wake:{self._process}")
        self._doubts = Doubts()
        # The orders that `renew` has returned, by producer: the next call confirms them.
        self._received: dict[str, list[GivenOrder]] = {}

    async def close(self) -> None:
        """Ends the connections. Calls that wait raise `StoreUnavailable`, as do all later ones."""
        self._scripts.closed = True
        await self._wakeups.close()
        await self._reads.close()
        await self._redis.aclose()

    async def create(
        self, record: StreamRecord, producer: str, idempotency: Idempotency | None = None
    ) -> str:
        request = record.request
        key = digest = ""
        if idempotency is not None:
            key = hashlib.sha256(_encode((record.owner, idempotency.key))).hexdigest()
            digest = idempotency.digest
        flags = ["continue"] if request.on_disconnect == "continue" else []
        if record.sampling.logprobs is not None:
            flags.append("logprobs")
        prompt = len(record.prompt)
        size = prompt + request.n * record.sampling.max_tokens
        nonce = f"c{secrets.token_hex(8)}"
        with self._doubts.unless_replied(record.id, nonce):
            reply: list[bytes] = await self._scripts.run(
                "create",
                *(producer, self._process, record.id, record.owner, _encode(record), request.n, prompt, size),
                *(key, digest, nonce, " ".join(flags), int(not request.detach)),
            )
        if reply[0] == b"conflict":
            raise key_conflict()
        if reply[0] == b"full":
            raise store_full()
        return reply[1].decode()

    async def append(self, producer: str, appends: Sequence[Append]) -> list[Rejection]:
        self._doubts.settle(append.stream for append in appends)
        rejections = await self._scripts.run("append", producer, self._process, *append_arguments(appends))
        return [] if rejections is None else decode_rejections(rejections)

    async def renew(self, producer: str, wait_s: float) -> list[Order]:
        until_s = _now_s() + wait_s
        with self._wakeups.waiter(f"@{producer}") as woken:
            while not (orders := await self._orders(producer)) and (left_s := until_s - _now_s()) > 0:
                await _wait(woken, min(left_s, POLL_S))
        return orders

    async def record(self, stream: str, owner: str | None = None) -> StreamRecord:
        kept: list[bytes | None] = await self._scripts.run("record", stream)
        if kept[0] is None or owner not in (None, kept[0].decode()):
            raise stream_not_found()
        if len(kept) == 1 or kept[1] is None:
            raise stream_expired()
        return decode_record(kept[1])

    async def read(self, stream: str, counts: Sequence[int], wait_s: float = 0.0) -> Excerpt:
        if wait_s <= 0:
            found = await self._reads.read(stream, counts, False)
        else:
            until_s = _now_s() + wait_s
            with self._wakeups.waiter(stream) as woken:
                found = first = await self._reads.read(stream, counts, True)
                # The end of a choice is repeated with every reply: it is news only if the first did not have it.
                while not found.has_news and found.batches == first.batches:
                    if (left_s := until_s - _now_s()) <= 0:
                        break
                    await _wait(woken, min(left_s, POLL_S))
                    found = await self._reads.read(stream, counts, _now_s() < until_s)
        check_status(found.status)
        return found.excerpt()

    async def take(self, stream: str, producer: str) -> int | None:
        nonce = f"t{secrets.token_hex(8)}"
        with self._doubts.unless_replied(stream, nonce):
            epoch: int | None = await self._scripts.run("take", producer, self._process, stream, nonce)
        if epoch is not None:
            check_status(epoch)
        return epoch

    async def count_readers(self, stream: str, process: str, readers: int) -> int:
        status: int = await self._scripts.run("count_readers", stream, process, self._process, readers)
        check_status(status)
        return status - 1

    async def order(self, order: Order) -> bool:
        change = ("", "") if order.change is None else (order.change.id, _encode(order.change))
        status: int = await self._scripts.run("order", order.stream, ORDER_LETTERS[order.action], *change)
        check_status(status)
        if status == _CHANGED_TOO_OFTEN:
            raise changed_too_often()
        return status == 1

    async def _orders(self, producer: str) -> list[Order]:
        """The orders that are not confirmed, after this call confirms those of the last. A lost reply is repeated."""
        doubts = self._doubts.pending()
        received = _encode([(given.member, given.score) for given in self._received.get(producer, ())])
        undo = _encode([(stream, nonce) for stream, (nonce, _) in doubts.items()])
        reply = await self._scripts.run("renew", producer, self._process, received, undo)
        self._doubts.undone(doubts)
        given = self._received[producer] = decode_orders(reply)
        return [each.order() for each in given]


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _wait(wakeup: Wakeup, wait_s: float) -> None:
    """Waits for `wakeup`, up to `wait_s`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await wakeup.wait()
