"""The calls of the `StreamStore` port as messages: one class for each, which says how it is done and what answers it."""

from __future__ import annotations

from typing import Any

import msgspec

from app.streams.store import Append, Excerpt, Idempotency, Order, Refusal, StreamRecord, StreamStore
from deployments.messages.refusal import Refused, from_refusal


class Create(msgspec.Struct, frozen=True, array_like=True, tag="create"):
    record: StreamRecord
    producer: str
    idempotency: Idempotency | None

    async def on(self, store: StreamStore) -> str:
        return await store.create(self.record, self.producer, self.idempotency)


class AppendAll(msgspec.Struct, frozen=True, array_like=True, tag="append", gc=False):
    producer: str
    appends: list[Append]

    async def on(self, store: StreamStore) -> list[Refusal]:
        return await store.append(self.producer, self.appends)


class Renew(msgspec.Struct, frozen=True, array_like=True, tag="renew"):
    producer: str
    wait_s: float

    async def on(self, store: StreamStore) -> list[Order]:
        return await store.renew(self.producer, self.wait_s)


class Record(msgspec.Struct, frozen=True, array_like=True, tag="record"):
    stream: str
    owner: str | None

    async def on(self, store: StreamStore) -> StreamRecord:
        return await store.record(self.stream, self.owner)


class Read(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    stream: str
    counts: list[int]
    wait_s: float

    async def on(self, store: StreamStore) -> Excerpt:
        return await store.read(self.stream, self.counts, self.wait_s)


class Take(msgspec.Struct, frozen=True, array_like=True, tag="take"):
    stream: str
    producer: str

    async def on(self, store: StreamStore) -> int | None:
        return await store.take(self.stream, self.producer)


class CountReaders(msgspec.Struct, frozen=True, array_like=True, tag="count_readers"):
    stream: str
    process: str
    readers: int

    async def on(self, store: StreamStore) -> int:
        return await store.count_readers(self.stream, self.process, self.readers)


class GiveOrder(msgspec.Struct, frozen=True, array_like=True, tag="order"):
    order: Order

    async def on(self, store: StreamStore) -> bool:
        return await store.order(self.order)


StoreCall = Create | AppendAll | Renew | Record | Read | Take | CountReaders | GiveOrder

_RESULTS: dict[type, Any] = {
    Create: str,
    AppendAll: list[Refusal],
    Renew: list[Order],
    Record: StreamRecord,
    Read: Excerpt,
    Take: int | None,
    CountReaders: int,
    GiveOrder: bool,
}


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The call was done; `result` is encoded."""

    result: msgspec.Raw


encode = msgspec.msgpack.Encoder().encode
decode_call = msgspec.msgpack.Decoder(StoreCall).decode
_decode_answer = msgspec.msgpack.Decoder(Done | Refused).decode
_decode_result = {kind: msgspec.msgpack.Decoder(result).decode for kind, result in _RESULTS.items()}


def answer_of(call: StoreCall, data: bytes) -> Any:
    """The result in an encoded answer to `call`. Raises the `ServiceError` that it is instead."""
    answer = _decode_answer(data)
    if isinstance(answer, Refused):
        raise from_refusal(answer)
    return _decode_result[type(call)](answer.result)
