"""The log of streams as an ingress sees it: implements `app.streams.log.StreamLog` over a link to its deployment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.errors import LogUnavailable
from app.streams.log import Append, Excerpt, Idempotency, Order, Refusal, StreamRecord
from deployments import log_calls
from deployments.faults import RETRY_AFTER_S, from_call
from deployments.link import Link
from deployments.log_calls import LogCall, answer_of, encode

CALL_TIMEOUT_S = 5.0


class StreamLogClient:
    """See the port. A call that fails, or takes longer than it may, raises `LogUnavailable`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, record: StreamRecord, driver: str, idempotency: Idempotency | None = None) -> str:
        result: str = await self._call(log_calls.Create(record, driver, idempotency))
        return result

    async def append(self, driver: str, appends: Sequence[Append]) -> list[Refusal]:
        result: list[Refusal] = await self._call(log_calls.AppendAll(driver, list(appends)))
        return result

    async def attend(self, driver: str, wait_s: float) -> list[Order]:
        result: list[Order] = await self._call(log_calls.Attend(driver, wait_s), wait_s)
        return result

    async def record(self, stream: str, owner: str | None = None) -> StreamRecord:
        result: StreamRecord = await self._call(log_calls.Record(stream, owner))
        return result

    async def read(self, stream: str, counts: Sequence[int], wait_s: float = 0.0) -> Excerpt:
        result: Excerpt = await self._call(log_calls.Read(stream, list(counts), wait_s), wait_s)
        return result

    async def take(self, stream: str, driver: str) -> int | None:
        result: int | None = await self._call(log_calls.Take(stream, driver))
        return result

    async def count_readers(self, stream: str, process: str, readers: int) -> int:
        result: int = await self._call(log_calls.CountReaders(stream, process, readers))
        return result

    async def order(self, order: Order) -> bool:
        result: bool = await self._call(log_calls.GiveOrder(order))
        return result

    async def _call(self, call: LogCall, wait_s: float = 0.0) -> Any:
        try:
            received = await self._link.call(encode(call), CALL_TIMEOUT_S + wait_s)
        except Exception as error:
            raise LogUnavailable(
                from_call(error, "log of streams").message, retry_after_s=RETRY_AFTER_S
            ) from error
        return answer_of(call, received)
