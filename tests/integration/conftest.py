"""One server for all integration tests: the shipped configuration with three simulated models beside
the embedded one, and two ingress replicas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import tests.fakes.quiet_ray  # noqa: F401
from tests.integration.cluster import Cluster, free_ports, shipped_config

SIMULATED = "pace"
"""The name of the simulated model. It has two replicas and makes a token of each stream every 20 ms."""
SILENT = "silence"
"""The name of another one, whose streams are silent for 63 s before their first token."""
SINGLE = "single"
"""The name of a third: one sequence at a time, the others wait."""
[LISTED_PORT] = free_ports(1)
"""Pages that are loaded from this port may call the server, which is at another."""


def integration_config(*, embedded_too: bool = True) -> dict[str, Any]:
    """Light enough for two cores: CPUs are only counted, so shares of them do."""
    config = shipped_config()
    args = config["applications"][0]["args"]
    embedded = {**args["models"][0], "max_replicas": 1, "cpus_per_replica": 0.5}
    simulated = {
        **embedded,
        "name": SIMULATED,
        "engine": "simulated",
        "cpus_per_replica": 0.1,
        "min_replicas": 2,
        "max_replicas": 2,
        "max_running_sequences": 128,
    }
    silent = {
        **simulated,
        "name": SILENT,
        "simulated": {"first_token_s": 63.0, "step_s": 0.02},
        "min_replicas": 1,
        "max_replicas": 1,
    }
    single = {
        **silent,
        "name": SINGLE,
        "simulated": {"first_token_s": 0.001, "step_s": 0.02},
        "max_running_sequences": 1,
        "max_waiting_sequences": 4,
    }
    args["models"] = [embedded, simulated, silent, single] if embedded_too else [simulated]
    args["ingress"] = {"replicas": 2, "allowed_origins": [f"http://127.0.0.1:{LISTED_PORT}"]}
    args["streams"]["replica_wait_s"] = 60  # a replica takes longer to start on a busy machine
    return config


@pytest.fixture(scope="session")
def server() -> Iterator[Cluster]:
    """The running server. `server.base_url` is its address."""
    cluster = Cluster(integration_config())
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
