"""The calls of the `StreamLog` port as messages: one class for each, which says how it is done and what answers it."""

from __future__ import annotations

from typing import Any

import msgspec

from app.streams.log import Append, Excerpt, Idempotency, Order, Refusal, StreamLog, StreamRecord
from deployments.refusal import Refused, from_refusal


class Create(msgspec.Struct, frozen=True, array_like=True, tag="create"):
    record: StreamRecord
    driver: str
    idempotency: Idempotency | None

    async def on(self, log: StreamLog) -> str:
        return await log.create(self.record, self.driver, self.idempotency)


class AppendAll(msgspec.Struct, frozen=True, array_like=True, tag="append", gc=False):
    driver: str
    appends: list[Append]

    async def on(self, log: StreamLog) -> list[Refusal]:
        return await log.append(self.driver, self.appends)


class Attend(msgspec.Struct, frozen=True, array_like=True, tag="attend"):
    driver: str
    wait_s: float

    async def on(self, log: StreamLog) -> list[Order]:
        return await log.attend(self.driver, self.wait_s)


class Record(msgspec.Struct, frozen=True, array_like=True, tag="record"):
    stream: str
    owner: str | None

    async def on(self, log: StreamLog) -> StreamRecord:
        return await log.record(self.stream, self.owner)


class Read(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    stream: str
    counts: list[int]
    wait_s: float

    async def on(self, log: StreamLog) -> Excerpt:
        return await log.read(self.stream, self.counts, self.wait_s)


class Take(msgspec.Struct, frozen=True, array_like=True, tag="take"):
    stream: str
    driver: str

    async def on(self, log: StreamLog) -> int | None:
        return await log.take(self.stream, self.driver)


class CountReaders(msgspec.Struct, frozen=True, array_like=True, tag="count_readers"):
    stream: str
    process: str
    readers: int

    async def on(self, log: StreamLog) -> int:
        return await log.count_readers(self.stream, self.process, self.readers)


class GiveOrder(msgspec.Struct, frozen=True, array_like=True, tag="order"):
    order: Order

    async def on(self, log: StreamLog) -> bool:
        return await log.order(self.order)


LogCall = Create | AppendAll | Attend | Record | Read | Take | CountReaders | GiveOrder

_RESULTS: dict[type, Any] = {
    Create: str,
    AppendAll: list[Refusal],
    Attend: list[Order],
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
decode_call = msgspec.msgpack.Decoder(LogCall).decode
_decode_answer = msgspec.msgpack.Decoder(Done | Refused).decode
_decode_result = {kind: msgspec.msgpack.Decoder(result).decode for kind, result in _RESULTS.items()}


def answer_of(call: LogCall, data: bytes) -> Any:
    """The result in an encoded answer to `call`. Raises the `ServiceError` that it is instead."""
    answer = _decode_answer(data)
    if isinstance(answer, Refused):
        raise from_refusal(answer)
    return _decode_result[type(call)](answer.result)
