"""The stream store as an ingress sees it: implements `app.streams.store.StreamStore` over a link to its deployment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.errors import StoreUnavailable
from app.streams.store import Append, Excerpt, Idempotency, Order, Refusal, StreamRecord
from deployments.ingress.faults import RETRY_AFTER_S, from_call
from deployments.links.link import Link
from deployments.messages import stream_store as messages
from deployments.messages.stream_store import StoreCall, answer_of, encode

CALL_TIMEOUT_S = 5.0


class StreamStoreClient:
    """See the port. A call that fails, or takes longer than it may, raises `StoreUnavailable`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(
        self, record: StreamRecord, producer: str, idempotency: Idempotency | None = None
    ) -> str:
        result: str = await self._call(messages.Create(record, producer, idempotency))
        return result

    async def append(self, producer: str, appends: Sequence[Append]) -> list[Refusal]:
        result: list[Refusal] = await self._call(messages.AppendAll(producer, list(appends)))
        return result

    async def renew(self, producer: str, wait_s: float) -> list[Order]:
        result: list[Order] = await self._call(messages.Renew(producer, wait_s), wait_s)
        return result

    async def record(self, stream: str, owner: str | None = None) -> StreamRecord:
        result: StreamRecord = await self._call(messages.Record(stream, owner))
        return result

    async def read(self, stream: str, counts: Sequence[int], wait_s: float = 0.0) -> Excerpt:
        result: Excerpt = await self._call(messages.Read(stream, list(counts), wait_s), wait_s)
        return result

    async def take(self, stream: str, producer: str) -> int | None:
        result: int | None = await self._call(messages.Take(stream, producer))
        return result

    async def count_readers(self, stream: str, process: str, readers: int) -> int:
        result: int = await self._call(messages.CountReaders(stream, process, readers))
        return result

    async def order(self, order: Order) -> bool:
        result: bool = await self._call(messages.GiveOrder(order))
        return result

    async def _call(self, call: StoreCall, wait_s: float = 0.0) -> Any:
        try:
            received = await self._link.call(encode(call), CALL_TIMEOUT_S + wait_s)
        except Exception as error:
            raise StoreUnavailable(
                from_call(error, "stream store").message, retry_after_s=RETRY_AFTER_S
            ) from error
        return answer_of(call, received)
