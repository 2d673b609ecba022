"""The stream store in Redis: shared by any number of processes, and as durable as the server is set up to be.

Every call is one script, so it happens whole or not at all. A call that fails is tried again a few times, quickly, and then
raises `StoreUnavailable`; each may be repeated, and a creation or takeover of which nobody knows whether it happened is undone
with the next `renew`. Who waits is woken through one subscription for the process, and looks for himself now and then.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from app.errors import IdempotencyConflict, Overloaded, StoreUnavailable, StreamExpired, StreamNotFound
from app.schema.frames import End, Error
from app.schema.tokens import Edit, EngineFinish, TokenBatch, TokenLogprob
from app.streams.redis.scripts import Script, Scripts
from app.streams.redis.wakeups import Wakeups
from app.streams.store import (
    Append,
    Change,
    Excerpt,
    Idempotency,
    Order,
    Rejection,
    StreamRecord,
)
from app.streams.store_bounds import StoreBounds
from app.streams.store_errors import changed_too_often

logger = logging.getLogger(__name__)

# A wake-up that was lost is made good after this time.
POLL_S = 1.0
MAX_CONNECTIONS = 8
MAX_DOUBTS = 1_000
UNDOINGS = 3
_MAX_READS = 256


class _Finish(msgspec.Struct, frozen=True, array_like=True):
    finish: EngineFinish
    stop_token: int | None = None


class _KeptBatch(msgspec.Struct, frozen=True, array_like=True):
    """What `TokenBatch` says, with the token ids as the store keeps them: 4 bytes each."""

    choice: int
    position: int
    tokens: bytes
    finish: _Finish | None
    logprobs: list[TokenLogprob] | None
    edits: list[Edit] | None

    def batch(self) -> TokenBatch:
        token_ids = list(struct.unpack(f"<{len(self.tokens) // 4}I", self.tokens))
        finish, stop_token = (
            (None, None) if self.finish is None else (self.finish.finish, self.finish.stop_token)
        )
        return TokenBatch(
            *(0, self.choice, self.position, token_ids, finish, stop_token, self.logprobs, None, self.edits)
        )


class _Found(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a read. `status` is 1, or what `_check` makes of it."""

    status: int
    batches: list[_KeptBatch]
    ending: End | Error | None
    orphaned: bool
    expires_ms: int

    @property
    def has_news(self) -> bool:
        """Whether there is more to say than how choices ended that the reader knows whole."""
        return (
            self.status != 1
            or self.ending is not None
            or self.orphaned
            or any(batch.tokens for batch in self.batches)
        )

    def excerpt(self) -> Excerpt:
        batches = [batch.batch() for batch in self.batches]
        return Excerpt(batches, self.ending, self.orphaned, self.expires_ms / 1000)


class _Given(msgspec.Struct, frozen=True, array_like=True):
    """An order as it is kept: `member` and `score` say which, `change` belongs to those that change a stream."""

    member: str
    score: str
    change: Change | None

    def order(self) -> Order:
        action, stream = _ACTIONS[self.member[0]], self.member[1:]
        return Order(action, stream if self.change is None else stream[len(self.change.id) :], self.change)


_Asked = tuple[str, Sequence[int], bool]
_Action = Literal["cancel", "stop", "change", "adopt"]
# The first letter of an order as it is kept.
_ACTIONS: dict[str, _Action] = {"c": "cancel", "s": "stop", "e": "change", "a": "adopt"}
_LETTERS = {action: letter for letter, action in _ACTIONS.items()}
_TOO_OFTEN = 3

_encode = msgspec.msgpack.Encoder().encode
_decode_found = msgspec.msgpack.Decoder(list[_Found]).decode
_decode_refusals = msgspec.msgpack.Decoder(list[Rejection]).decode
_decode_orders = msgspec.msgpack.Decoder(list[_Given]).decode
_decode_record = msgspec.msgpack.Decoder(StreamRecord).decode


class RedisStreamStore:
    """Implements `app.streams.store.StreamStore` on the server at `url` (`redis://`, `rediss://` or `unix://`).

    `tombstone_s` is how long it is remembered that there was a stream. All processes that share the streams must be given
    the same `bounds` and `prefix`. Belongs to one event loop; connects when it is first used.
    """

    def __init__(
        self, url: str, bounds: StoreBounds, *, prefix: str = "streams:", tombstone_s: float = 86_400.0
    ) -> None:
        if not re.fullmatch(r"[\w:{}.-]+", prefix):
            raise ValueError(f"not a prefix for keys: {prefix!r}")
        self._process = secrets.token_hex(8)
        self._scripts = Scripts(prefix, bounds, tombstone_s)
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
        self._wakeups = Wakeups(self._redis, f"{prefix}wake:{self._process}")
        # What `renew` has handed out, to be confirmed with the next call, by producer.
        self._received: dict[str, list[_Given]] = {}
        # Nonces of calls whose outcome is unknown, by stream, and how often they are still to be undone: the server may
        # yet have such a call before it.
        self._doubts: dict[str, tuple[str, int]] = {}
        self._closed = False
        self._asked: list[tuple[_Asked, asyncio.Future[_Found]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Ends the connections. Calls that wait raise `StoreUnavailable`, as do all later ones."""
        self._closed = True
        await self._wakeups.close()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._redis.aclose()

    async def create(
        self, record: StreamRecord, producer: str, idempotency: Idempotency | None = None
    ) -> str:
        request = record.request
        key = b"" if idempotency is None else _key_hash(record.owner, idempotency.key)
        flags = ["continue"] if request.on_disconnect == "continue" else []
        if record.sampling.logprobs is not None:
            flags.append("logprobs")
        prompt = len(record.prompt)
        nonce = f"c{secrets.token_hex(8)}"
        arguments = (
            *(producer, self._process, record.id, record.owner, _encode(record)),
            *(request.n, prompt, prompt + request.n * record.sampling.max_tokens),
            *(key, "" if idempotency is None else idempotency.digest, nonce, " ".join(flags)),
            int(not request.detach),
        )
        answer: list[bytes] = await self._run_once(self._scripts.create, record.id, nonce, *arguments)
        if answer[0] == b"conflict":
            raise IdempotencyConflict(
                "This Idempotency-Key was used for another body.", param="Idempotency-Key"
            )
        if answer[0] == b"full":
            raise Overloaded("The stream store is full of running streams. Try again later.", retry_after_s=1)
        return answer[1].decode()

    async def append(self, producer: str, appends: Sequence[Append]) -> list[Rejection]:
        if self._doubts:
            # Who appends to a stream knows it to be there.
            for append in appends:
                self._doubts.pop(append.stream, None)
        blobs: list[bytes] = []
        packed = _encode([_packed(append, blobs) for append in appends])
        refused = await self._run(self._scripts.append, producer, self._process, packed, *blobs)
        return [] if refused is None else _decode_refusals(refused)

    async def renew(self, producer: str, wait_s: float) -> list[Order]:
        until_s = _now_s() + wait_s
        with self._wakeups.waiter(f"@{producer}") as woken:
            while not (orders := await self._orders(producer)) and (left_s := until_s - _now_s()) > 0:
                await _within(min(left_s, POLL_S), woken)
        return orders

    async def record(self, stream: str, owner: str | None = None) -> StreamRecord:
        kept = await self._run(self._scripts.record, stream)
        if kept[0] is None or owner not in (None, kept[0].decode()):
            _check(0)
        if len(kept) == 1:
            _check(-1)
        return _decode_record(kept[1])

    async def read(self, stream: str, counts: Sequence[int], wait_s: float = 0.0) -> Excerpt:
        if wait_s <= 0:
            found = await self._ask(stream, counts, False)
        else:
            found = await self._follow(stream, counts, _now_s() + wait_s)
        _check(found.status)
        return found.excerpt()

    async def take(self, stream: str, producer: str) -> int | None:
        nonce = f"t{secrets.token_hex(8)}"
        epoch: int | None = await self._run_once(
            self._scripts.take, stream, nonce, producer, self._process, stream, nonce
        )
        if epoch is not None:
            _check(epoch)
        return epoch

    async def count_readers(self, stream: str, process: str, readers: int) -> int:
        status: int = await self._run(self._scripts.count_readers, stream, process, self._process, readers)
        _check(status)
        return status - 1

    async def order(self, order: Order) -> bool:
        change, letter = order.change, _LETTERS[order.action]
        named = ("", "") if change is None else (change.id, _encode(change))
        status = await self._run(self._scripts.order, order.stream, letter, *named)
        _check(status)
        if status == _TOO_OFTEN:
            raise changed_too_often()
        return bool(status == 1)

    # Inside.

    async def _orders(self, producer: str) -> list[Order]:
        """Orders that are not confirmed yet; confirms those of the last call. A lost answer is given again."""
        doubts = dict(self._doubts)
        received = _encode([(one.member, one.score) for one in self._received.get(producer, ())])
        undo = _encode([(stream, nonce) for stream, (nonce, _) in doubts.items()])
        answer = await self._run(self._scripts.renew, producer, self._process, received, undo)
        for stream, doubt in doubts.items():
            if self._doubts.get(stream) == doubt:
                self._doubt(stream, doubt[0], doubt[1] - 1)
        given = self._received[producer] = _decode_orders(answer)
        return [one.order() for one in given]

    async def _follow(self, stream: str, counts: Sequence[int], until_s: float) -> _Found:
        """What lies behind `counts` as soon as there is something, or at the end of the time."""
        with self._wakeups.waiter(stream) as woken:
            found = first = await self._ask(stream, counts, True)
            # That a choice has ended is no news to a reader who has been told so before, and is to one who has not.
            while (
                not found.has_news and found.batches == first.batches and (left_s := until_s - _now_s()) > 0
            ):
                await _within(min(left_s, POLL_S), woken)
                found = await self._ask(stream, counts, _now_s() < until_s)
        return found

    async def _ask(self, stream: str, counts: Sequence[int], waits: bool) -> _Found:
        """Reads, in one call with everybody who asks while a call is under way."""
        answer: asyncio.Future[_Found] = asyncio.get_running_loop().create_future()
        self._asked.append(((stream, counts, waits), answer))
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._answer())
        return await answer

    async def _answer(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked[:_MAX_READS], self._asked[_MAX_READS:]
                if wanted := [one for one in asked if not one[1].done()]:
                    await self._answer_all(wanted)
        finally:
            self._reading = None

    async def _answer_all(self, asked: list[tuple[_Asked, asyncio.Future[_Found]]]) -> None:
        try:
            packed = _encode([question for question, _ in asked])
            answers = _decode_found(await self._run(self._scripts.read, self._process, packed))
        except Exception as error:
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), found in zip(asked, answers, strict=True):
            if not answer.done():
                answer.set_result(found)

    async def _run_once(self, script: Script, stream: str, nonce: str, *arguments: Any) -> Any:
        """Runs a script whose effect must not stay if the caller does not hear of it."""
        try:
            return await self._run(script, *arguments)
        except (StoreUnavailable, asyncio.CancelledError):
            self._doubt(stream, nonce, UNDOINGS)
            raise

    def _doubt(self, stream: str, nonce: str, undoings: int) -> None:
        self._doubts.pop(stream, None)
        if undoings > 0:
            self._doubts[stream] = (nonce, undoings)
        if len(self._doubts) > MAX_DOUBTS:
            del self._doubts[next(iter(self._doubts))]

    async def _run(self, script: Script, *arguments: Any) -> Any:
        """Runs a script by its name, and with its text when the server does not know it (yet, or any more)."""
        if self._closed:
            raise StoreUnavailable("The stream store is closed.")
        execute: Callable[..., Awaitable[Any]] = self._redis.execute_command
        try:
            try:
                return await execute("EVALSHA", script.sha, 0, *arguments)
            except NoScriptError:
                return await execute("EVAL", script.text, 0, *arguments)
        except ResponseError as error:
            # Out of memory or read-only, perhaps; or a script is wrong.
            logger.error("Redis refused a call of the stream store: %s", error)
            raise StoreUnavailable(
                "The stream store does not answer as it should.", retry_after_s=1
            ) from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable("The stream store cannot be reached.", retry_after_s=1) from error


def _packed(append: Append, blobs: list[bytes]) -> Any:
    """The append as the script takes it: what the store keeps as it is goes into `blobs`, here stands its number, from 1."""
    if append.ending is None and all(
        batch.logprobs is None and batch.edits is None for batch in append.batches
    ):
        return append
    batches = [_packed_batch(batch, blobs) for batch in append.batches]
    if append.ending is None:
        return append.stream, append.epoch, batches
    blobs.append(_encode(append.ending))
    return append.stream, append.epoch, batches, len(blobs)


def _packed_batch(batch: TokenBatch, blobs: list[bytes]) -> Any:
    first_logprob = len(blobs) + 1 if batch.logprobs else None
    blobs.extend(_encode(logprob) for logprob in batch.logprobs or ())
    edits = []
    for edit in batch.edits or ():
        blobs.append(_encode(edit))
        edits.append((edit.id, edit.end, len(blobs)))
    packed = (0, batch.choice, batch.position, batch.token_ids, batch.finish, batch.stop_token, first_logprob)
    return *packed, None, edits or None


def _key_hash(owner: str, key: str) -> bytes:
    return hashlib.sha256(_encode((owner, key))).hexdigest().encode()


def _check(status: int) -> None:
    """Raises for what the scripts say of a stream that they do not have."""
    if status == -1:
        raise StreamExpired("The stream is past its retention.")
    if status == 0:
        raise StreamNotFound("There is no such stream.")


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _within(wait_s: float, woken: asyncio.Event) -> None:
    """Waits for `woken` at most `wait_s`, and makes it ready for the next time."""
    try:
        async with asyncio.timeout(wait_s):
            await woken.wait()
    except TimeoutError:
        return
    woken.clear()
