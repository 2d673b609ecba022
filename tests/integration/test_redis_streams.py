"""Streams with Redis as their store and short times: what runs out, and what survives a Redis that dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.cluster import Cluster
from tests.integration.conftest import integration_config
from tests.integration.redis_server import RedisServer
from tests.integration.replicas import INGRESS
from tests.integration.scenario import LONG, alone, live, mixed, reached, read_anyhow
from tests.integration.sse_client import Reading, get, post

RETENTION_S, GRACE_S, MAX_READERS = 5.0, 1.0, 3
# Who reads elsewhere is asked for four times a second.
NOTICED_S = 0.5


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture(scope="module")
def brief(redis: RedisServer) -> Iterator[Cluster]:
    """A server with two ingress processes whose streams are soon forgotten."""
    config = integration_config(embedded_too=False)
    config["applications"][0]["args"]["streams"].update(
        backend="redis",
        redis_url=redis.url,
        retention_s=RETENTION_S,
        grace_s=GRACE_S,
        max_readers=MAX_READERS,
    )
    cluster = Cluster(config)
    try:
        cluster.start()
        assert not cluster.processes("ServeReplica:streaming:StreamStore")
        yield cluster
    finally:
        cluster.stop()


async def state(
    client: httpx.AsyncClient, stream: str, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    answer = await client.get(f"/v1/streams/{stream}", headers=headers)
    answer.raise_for_status()
    status: dict[str, Any] = answer.json()
    return status


async def last_state(
    client: httpx.AsyncClient, stream: str, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """What is known of a stream whose end was read, when the store knows it too: it hears of the end a little later."""
    until_s = time.monotonic() + 5
    while (status := await state(client, stream, headers))["expires_at"] is None:
        assert time.monotonic() < until_s
        await asyncio.sleep(0.02)
    return status


def test_what_is_past_its_retention_is_gone_and_nobody_else_learns_of_it(brief: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        mine, other = {"authorization": "Bearer mine"}, {"authorization": "Bearer other"}
        reading = await post(client, {**LONG, "max_tokens": 5}, headers=mine)
        path = f"/v1/streams/{reading.stream}"
        routes = [("GET", "/events"), ("GET", "/events?after=5"), ("GET", ""), ("DELETE", "")]
        kept_s = (await last_state(client, reading.stream, mine))["expires_at"] - time.time()
        assert RETENTION_S - 2 < kept_s <= RETENTION_S + 1
        await asyncio.sleep(kept_s + 0.5)
        for method, tail in routes * 2:
            gone = await client.request(method, path + tail, headers=mine)
            assert (gone.status_code, gone.json()["error"]["code"]) == (410, "stream_expired")
            foreign = await client.request(method, path + tail, headers=other)
            missing = await client.request(method, f"/v1/streams/st_{'0' * 32}{tail}", headers=other)
            assert foreign.status_code == missing.status_code == 404
            assert foreign.content == missing.content

    live(brief, test)


def test_a_stream_that_nobody_comes_back_to_is_cancelled_after_its_time_of_grace(brief: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        [expected] = await alone(client, [LONG])
        left, back = await asyncio.gather(*(post(client, LONG, until_tokens=10) for _ in range(2)))
        left_s = time.monotonic()
        await asyncio.sleep(GRACE_S / 2)
        await get(client, f"/v1/streams/{back.stream}/events", back)
        assert back.hashes == expected
        assert time.monotonic() - left_s > GRACE_S + NOTICED_S
        status = await state(client, left.stream)
        assert (status["state"], status["choices"][0]["finish_reason"]) == ("ended", "cancelled")
        made_s = status["usage"]["completion_tokens"] * 0.02
        assert GRACE_S < made_s < GRACE_S + NOTICED_S + 1.0

    live(brief, test)


def test_a_stream_ends_with_its_time(brief: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        fields = {**LONG, "max_tokens": 2000, "timeout_s": 1.5}
        began_s = time.monotonic()
        reading, whole = await asyncio.gather(
            post(client, fields), client.post("/v1/streams", json={**fields, "stream": False})
        )
        assert 1.4 < time.monotonic() - began_s < 4.0
        assert (reading.frames[-1]["type"], reading.frames[-1]["error"]["code"]) == ("error", "timeout")
        assert 20 < reading.tokens < 100
        assert (whole.status_code, whole.json()["error"]["code"]) == (408, "timeout")
        assert (await last_state(client, reading.stream))["state"] == "failed"

    live(brief, test)


def test_a_stream_has_so_many_readers_in_both_processes_together(brief: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        fields = {**LONG, "max_tokens": 1000, "detach": True}
        path = f"/v1/streams/{(await client.post('/v1/streams', json=fields)).json()['stream']}/events"

        async def join(stack: AsyncExitStack) -> int:
            response = await stack.enter_async_context(client.stream("GET", path))
            if response.status_code == 429:
                error = json.loads(await response.aread())["error"]
                assert (error["code"], response.headers["retry-after"]) == ("too_many_readers", "1")
            return response.status_code

        async with AsyncExitStack() as readers:
            async with AsyncExitStack() as first:
                statuses = [await join(first)]
                statuses += [await join(readers) for _ in range(4 * MAX_READERS)]
                assert (statuses.count(200), set(statuses)) == (MAX_READERS, {200, 429})
            await asyncio.sleep(0.5)
            later = [await join(readers) for _ in range(4)]
            assert later.count(200) == 1

    live(brief, test)


def test_streams_survive_an_ingress_and_a_redis_that_die(brief: Cluster, redis: RedisServer) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        requests = await mixed(client)
        expected = await alone(client, requests)
        readings = [Reading() for _ in requests]
        reads = [
            asyncio.ensure_future(read_anyhow(client, fields, reading))
            for fields, reading in zip(requests, readings, strict=True)
        ]
        await reached(readings, 20)
        redis.kill()
        await reached(readings, 60)  # without a store, running streams go on
        redis.start()
        await asyncio.sleep(1.0)
        os.kill(brief.processes(INGRESS)[0], signal.SIGKILL)
        await asyncio.gather(*reads)
        assert [reading.hashes for reading in readings] == expected
        assert any(reading.connections > 1 for reading in readings)

    live(brief, test)
