"""Fifty running streams on all protocols while replicas are taken away: each ends as if nothing had happened.

Only WebSockets may be closed, with the code that says so, and the client library may return by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

import tests.fakes.quiet_ray  # noqa: F401
from tests.integration.callers import Callers
from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED, integration_config
from tests.integration.driver import driver
from tests.integration.replicas import INGRESS, replaced
from tests.integration.scenario import alone, live, reached

GENERATOR = f"ServeReplica:streaming:Generator:{SIMULATED}"
COUNTS = {"sse": 12, "completions": 9, "websocket": 9, "grpc": 9, "library": 5}
HANDLES = 6
STEP_S = 0.06
PATIENCE_S = 150.0
REQUESTS: list[dict[str, Any]] = [
    {"model": SIMULATED, "prompt": "Once upon a time", "max_tokens": 750, **choice}
    for choice in ({"seed": 3}, {"seed": 4}, {"seed": 5, "temperature": 0})
]

Deploy = Callable[..., Any]


@pytest.fixture(scope="module")
def drained() -> Iterator[Cluster]:
    """A server of two generators and two ingress processes, at a pace that leaves the machine to those that start."""
    config = integration_config(embedded_too=False)
    [model] = config["applications"][0]["args"]["models"]
    model["simulated"] = {"first_token_s": 0.02, "step_s": STEP_S}
    cluster = Cluster(config, RAY_worker_niceness="0")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def expected(drained: Cluster) -> list[list[str]]:
    """The hashes of `REQUESTS` when nothing happens."""
    found: list[list[str]] = []

    async def test(client: httpx.AsyncClient) -> None:
        found.extend(await alone(client, REQUESTS))

    live(drained, test)
    return found


@asynccontextmanager
async def fifty_streams(
    server: Cluster, client: httpx.AsyncClient, expected: list[list[str]]
) -> AsyncIterator[tuple[Callers, Deploy]]:
    """Running streams, and a way to deploy fields of the application. When the block ends, they have ended as they must."""
    async with AsyncExitStack() as stack:
        deploy = await stack.enter_async_context(driver(server, "redeploy"))
        read_handles = await stack.enter_async_context(driver(server, "handle_readers"))
        [application] = server.config["applications"]

        async def deploy_fields(**fields: Any) -> None:
            await deploy({**server.config, "applications": [{**application, **fields}]})

        callers = Callers(server, client)
        of_handles = asyncio.ensure_future(read_handles(_repeated(REQUESTS, HANDLES)))
        reads = [
            callers.begin(protocol, fields)
            for protocol, count in COUNTS.items()
            for fields in _repeated(REQUESTS, count)
        ]
        await reached(callers.all, 10)
        yield callers, deploy_fields
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*reads)
            assert json.loads((await of_handles).splitlines()[-1]) == _repeated(expected, HANDLES)
    for protocol, readings in callers.readings.items():
        assert [reading.hashes for reading in readings] == _repeated(expected, COUNTS[protocol]), protocol
        connections = sum(reading.connections for reading in readings)
        print(f"\n{len(readings)} streams over {protocol}, {connections} connections")


def _repeated(items: list[Any], count: int) -> list[Any]:
    return [items[number % len(items)] for number in range(count)]


async def until(condition: Callable[[], bool], what: str) -> None:
    """Returns when it is so. HAProxy does not answer at every moment."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if condition():
                return
        assert time.monotonic() < give_up_s, what
        await asyncio.sleep(0.1)


def test_streams_of_a_generator_that_is_taken_away_end_there(
    drained: Cluster, expected: list[list[str]]
) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        before = drained.processes(GENERATOR)
        async with fifty_streams(drained, client, expected) as (_, deploy):
            await deploy(deployments=[{"name": f"Generator:{SIMULATED}", "num_replicas": 1}])
        await until(lambda: len(drained.processes(GENERATOR)) == 1, "a generator is too many")
        assert set(drained.processes(GENERATOR)) < set(before)

    live(drained, test)


def test_a_changed_configuration_replaces_every_process_and_breaks_no_stream(
    drained: Cluster, expected: list[list[str]]
) -> None:
    """With any other `args` Serve replaces all processes, one after the other, and HAProxy reloads each time."""

    async def test(client: httpx.AsyncClient) -> None:
        before = set(drained.processes("ServeReplica:streaming:"))
        args = drained.config["applications"][0]["args"]
        [model] = args["models"]
        other = {"max_model_len_tokens": 850, "simulated": {**model["simulated"], "step_s": 0.002}}
        async with fifty_streams(drained, client, expected) as (callers, deploy):
            await deploy(args={**args, "models": [{**model, **other}]})
            await until(lambda: drained.ingress_in_use() < 2, "no ingress process drains")
            assert not any(reading.ended for reading in callers.all)
        await until(lambda: not before & set(drained.processes()), "an old process is left")
        await replaced(drained, INGRESS, 2, 0)
        request = {**REQUESTS[0], "max_tokens": 2000, "stream": False}
        # Connections of before may still be those of an HAProxy whose servers are gone.
        async with httpx.AsyncClient(base_url=drained.base_url, timeout=60) as fresh:
            usage = (await fresh.post("/v1/streams", json=request)).json()["usage"]
        assert usage["total_tokens"] == 850

    live(drained, test)
