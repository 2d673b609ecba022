"""Ray nodes that die: first one with a generator, then one with an ingress process. The head node has one of each, too.

All are on this machine, with one address. So only the head node has a HAProxy (`proxy_location: HeadOnly`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import tests.fakes.quiet_ray  # noqa: F401
from tests.integration.callers import Callers
from tests.integration.cluster import ROOT, Cluster
from tests.integration.conftest import SIMULATED, integration_config
from tests.integration.replicas import INGRESS
from tests.integration.scenario import LONG, alone, live, reached

GENERATOR = f"ServeReplica:streaming:Generator:{SIMULATED}"
HEAD: dict[str, Any] = {"num_cpus": 1, "resources": {"ingress": 1}}
OF_GENERATOR: dict[str, Any] = {"num_cpus": 1}
OF_INGRESS: dict[str, Any] = {"num_cpus": 0, "resources": {"ingress": 1}}
ON_HEAD = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
REQUESTS = [{**LONG, "seed": seed} for seed in (3, 4)] + [{**LONG, "temperature": 0}]
PATIENCE_S = 120.0
PROTOCOLS = ("sse", "websocket", "grpc", "library")


def two_nodes_config() -> dict[str, Any]:
    """Each node has room for one generator or one ingress process, and the head node for one of each and the rest."""
    config = integration_config(embedded_too=False)
    config["proxy_location"] = "HeadOnly"
    [application] = config["applications"]
    [model] = application["args"]["models"]
    model["cpus_per_replica"] = 1
    application["deployments"] = [
        {"name": "Ingress", "ray_actor_options": {"num_cpus": 0, "resources": {"ingress": 1}}},
        {"name": "StreamStore", "ray_actor_options": ON_HEAD},
        {"name": f"Tokenizer:{SIMULATED}", "ray_actor_options": ON_HEAD},
    ]
    return config


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    cluster = Cluster(two_nodes_config())
    nodes = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.nodes", json.dumps([HEAD, OF_GENERATOR, OF_INGRESS])],
        cwd=ROOT,
        env=cluster.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert nodes.stdout is not None
        cluster.environment["RAY_ADDRESS"] = nodes.stdout.readline().strip()
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        nodes.communicate()


def kill_node_of(server: Cluster, title: str) -> None:
    """Kills every process of the node that has a replica with the title, and is not the head node."""
    parents = {process: _parent(process) for process in server.processes()}
    [controller] = server.processes("ServeController")
    [raylet] = {parents[replica] for replica in server.processes(title)} - {parents[controller]}
    for process in [raylet, *(child for child, parent in parents.items() if parent == raylet)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _parent(process: int) -> int:
    """0 when there is no such process any more."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_streams_go_on_when_nodes_die(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        expected = await alone(client, REQUESTS)

        async def while_streams_run(title: str, callers: Callers, protocols: tuple[str, ...]) -> None:
            reads = [callers.begin(protocol, fields) for protocol in protocols for fields in REQUESTS]
            await reached(callers.all, 40)
            kill_node_of(server, title)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*reads)
            for protocol, readings in callers.readings.items():
                assert [reading.hashes for reading in readings] == expected, protocol

        callers = Callers(server, client)
        await while_streams_run(GENERATOR, callers, (*PROTOCOLS, "completions"))
        assert {reading.connections for reading in callers.all} == {1}

        callers = Callers(server, client, come_back=True)
        await while_streams_run(INGRESS, callers, PROTOCOLS)
        returned = sum(reading.connections > 1 for reading in callers.all)
        print(f"\n{returned} of {len(callers.all)} callers had to return")
        assert 0 < returned < len(callers.all)

        assert (await alone(client, REQUESTS)) == expected

    live(server, test)
