"""The requests of a port: made from its methods, so that a new method needs no edit in messages, client or deployment."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Protocol

import msgspec
import pytest

from app.errors import StreamNotFound
from app.schema.tokens import TokenBatch
from app.streams.memory_store import MemoryStreamStore
from app.streams.store import Append, Order, Rejection, StreamStore
from app.streams.store_bounds import StoreBounds
from deployments.ingress.store_client import PortClient, StreamStoreClient
from deployments.messages.port_requests import PortRequests
from deployments.stream_store.deployment import StreamStore as Deployment
from tests.fakes.clock import FakeClock
from tests.fakes.link import LocalLink
from tests.fakes.requests import record


class LargerStore(StreamStore, Protocol):
    """The port with a method more."""

    async def orders_of(
        self, streams: Sequence[str], action: str = "stop", *, limit: int | None = None
    ) -> list[Order]: ...


class LargerMemoryStore(MemoryStreamStore):
    async def orders_of(
        self, streams: Sequence[str], action: str = "stop", *, limit: int | None = None
    ) -> list[Order]:
        assert action == "stop"
        for stream in streams:
            await self.record(stream)
        return [Order("stop", stream) for stream in list(streams)[:limit]]


class LargerClient(PortClient, LargerStore, port=LargerStore):
    pass


def test_a_new_method_of_the_port_is_called_like_the_others() -> None:
    async def main() -> None:
        store = LargerMemoryStore(StoreBounds(), FakeClock())
        requests = PortRequests(LargerStore)
        client: LargerStore = LargerClient.over(LocalLink(lambda data: requests.answer(data, store)))
        await client.create(record("st_a"), "d1")
        await client.create(record("st_b"), "d1")
        stops = [Order("stop", "st_a"), Order("stop", "st_b")]
        assert await client.orders_of(["st_a", "st_b"]) == stops
        assert await client.orders_of(streams=("st_a", "st_b"), limit=1) == stops[:1]
        with pytest.raises(StreamNotFound):
            await client.orders_of(["st_c"])

    asyncio.run(main())


def test_the_client_has_every_method_of_the_port_of_its_own() -> None:
    names = {name for name, _ in inspect.getmembers(StreamStore, inspect.isfunction) if name[0] != "_"}
    assert names == PortRequests(StreamStore).classes.keys() == names & vars(StreamStoreClient).keys()


def test_a_request_is_an_array_of_the_name_and_the_arguments() -> None:
    sent: list[bytes] = []

    async def handler(data: bytes) -> bytes:
        sent.append(data)
        return await Deployment(StoreBounds(), list).call(data)

    async def main() -> None:
        client = StreamStoreClient.over(LocalLink(handler))
        append = Append("st_a", 1, [TokenBatch(0, 0, 0, [7])])
        assert await client.append("d1", [append]) == [Rejection("st_a", "unknown")]

    asyncio.run(main())
    (data,) = sent
    batch = [0, 0, 0, [7], None, None, None, None, None]
    assert msgspec.msgpack.decode(data) == ["append", "d1", [["st_a", 1, [batch], None]]]


@pytest.mark.parametrize("request_", [["append", 1, []], ["close"], ["__init__"], ["record"], []])
def test_what_is_no_request_of_the_port_calls_nothing(request_: list[object]) -> None:
    async def main() -> None:
        with pytest.raises(msgspec.DecodeError):
            await PortRequests(StreamStore).answer(msgspec.msgpack.encode(request_), object())

    asyncio.run(main())
