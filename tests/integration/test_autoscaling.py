"""Generator replicas come and go with the load, from none to two and back, and no stream notices.

Replicas report to Serve's controller every 10 s, which is most of the time that this takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

import tests.fakes.quiet_ray  # noqa: F401
from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED, integration_config
from tests.integration.scenario import LONG, live
from tests.integration.sse_client import post

TITLE = f"ServeReplica:streaming:Generator:{SIMULATED}"
PLACES = 4
ABSENT = "absent"
"""Of this model no replica can start: it wants more CPUs than there are."""
START_TIMEOUT_S = 3.0
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def scaled() -> Iterator[Cluster]:
    """A server whose models have no replica until somebody asks."""
    config = integration_config(embedded_too=False)
    args = config["applications"][0]["args"]
    [simulated] = args["models"]
    simulated |= {
        "min_replicas": 0,
        "max_running_sequences": PLACES,
        "upscale_delay_s": 1,
        "downscale_delay_s": 3,
    }
    absent = {**simulated, "name": ABSENT, "cpus_per_replica": 1000, "start_timeout_s": START_TIMEOUT_S}
    args["models"] = [simulated, absent]
    args["ingress"] = {"replicas": 1}
    args["streams"]["heartbeat_s"] = 0.3
    # Ray lets the processes of replicas give way to all others: on a busy machine they would start very late.
    cluster = Cluster(config, RAY_worker_niceness="0")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


async def replicas_are(server: Cluster, count: int) -> None:
    """Returns when there are so many replicas."""
    give_up_s = time.monotonic() + PATIENCE_S
    while len(server.processes(TITLE)) != count:
        assert time.monotonic() < give_up_s, (count, server.processes(TITLE))
        await asyncio.sleep(0.2)


@asynccontextmanager
async def load(client: httpx.AsyncClient, readers: int) -> AsyncIterator[set[str]]:
    """So many streams at any time. The hashes of their texts, which are all the same, are in the set at the end."""
    hashes: set[str] = set()
    stopping = asyncio.Event()

    async def read() -> None:
        while not stopping.is_set():
            hashes.update((await post(client, LONG)).hashes)

    reading = asyncio.gather(*(read() for _ in range(readers)))
    try:
        yield hashes
    finally:
        stopping.set()
        await reading


@pytest.mark.integration
def test_replicas_follow_the_load(scaled: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert scaled.processes(TITLE) == []
        whole = asyncio.create_task(client.post("/v1/streams", json={**LONG, "stream": False}))
        lines = []
        async with client.stream("POST", "/v1/streams", json=LONG) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                lines.append(line)
        first_delta = next(number for number, line in enumerate(lines) if '"type":"delta"' in line)
        assert '"type":"start"' in "".join(lines[:first_delta])
        assert sum(line.startswith(":") for line in lines[:first_delta]) > 3, "no heartbeats"
        answer = (await whole).json()
        assert answer["usage"]["completion_tokens"] == LONG["max_tokens"]
        expected = set((await post(client, LONG)).hashes)
        await replicas_are(scaled, 1)

        async with load(client, 3 * PLACES) as hashes:
            await replicas_are(scaled, 2)
            await asyncio.sleep(8)  # streams go to the second one, too
        assert hashes == expected
        async with load(client, 2) as hashes:
            await replicas_are(scaled, 1)
        assert hashes == expected
        await replicas_are(scaled, 0)

    live(scaled, test)


@pytest.mark.integration
def test_a_replica_that_does_not_start_is_waited_for_no_longer_than_the_limit(scaled: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        fields: dict[str, Any] = {**LONG, "model": ABSENT}
        began_s = time.monotonic()
        reading = await post(client, fields)
        assert [frame["type"] for frame in reading.frames] == ["start", "error"]
        assert reading.frames[-1]["error"]["code"] == "generator_unavailable"
        response = await client.post("/v1/streams", json={**fields, "stream": False})
        assert response.status_code == 503 and response.json()["error"]["code"] == "generator_unavailable"
        assert "retry-after" in response.headers
        assert 2 * START_TIMEOUT_S < time.monotonic() - began_s < 2 * START_TIMEOUT_S + 10

    live(scaled, test)
