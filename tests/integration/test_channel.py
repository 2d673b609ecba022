"""The channel between real processes: order, breaks, cancellation, hung and killed replicas, in both of Serve's modes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.channel_driver import STREAMS
from tests.integration.cluster import ROOT, Cluster
from tests.integration.conftest import SIMULATED, integration_config
from tests.integration.replicas import INGRESS

DRIVER_TIMEOUT_S = 300
SCENARIOS = ["pinned", "pace", "breaks", "cancels", "pauses", "hang", "kill"]

Results = dict[str, dict[str, Any]]


def drive(cluster: Cluster, scenarios: list[str]) -> Results:
    """Runs the driver in the cluster, in the mode of its ingress."""
    command = [
        sys.executable,
        "-m",
        "tests.integration.channel_driver",
        "streaming",
        f"Generator:{SIMULATED}",
    ]
    finished = subprocess.run(
        [*command, *scenarios],
        cwd=ROOT,
        env={**cluster.environment, **cluster.variables, "RAY_ADDRESS": cluster.ray_address},
        capture_output=True,
        text=True,
        timeout=DRIVER_TIMEOUT_S,
    )
    results = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    assert finished.returncode == 0, f"{results}\n{finished.stderr[-4000:]}"
    return {result.pop("scenario"): result for result in results}


@pytest.fixture(scope="module")
def results(server: Cluster) -> Results:
    found = drive(server, SCENARIOS)
    print(json.dumps(found, indent=1))
    return found


def test_every_replica_is_reached_by_its_name(results: Results) -> None:
    assert results["pinned"] == {"replicas": 2, "processes": 2}


def test_many_streams_come_whole_and_in_order(results: Results) -> None:
    pace = results["pace"]
    assert (pace["whole"], pace["disorder"], pace["replicas_used"]) == (STREAMS, 0, 2)


def test_broken_channels_lose_and_repeat_nothing(results: Results) -> None:
    breaks = results["breaks"]
    assert (breaks["whole"], breaks["disorder"], breaks["losses"]) == (STREAMS, 0, 0)
    assert breaks["cuts"] >= 10


def test_streams_that_are_left_at_any_moment_free_their_places(results: Results) -> None:
    assert results["cancels"]["jobs"] == 0
    assert results["cancels"]["freed_s"] < 2


def test_a_paused_stream_stands_still_alone(results: Results) -> None:
    assert results["pauses"]["paused_tokens"] == 0
    assert results["pauses"]["other_tokens"] > 10
    assert results["pauses"]["disorder"] == 0


def test_a_hung_replica_is_noticed_and_avoided(results: Results) -> None:
    hang = results["hang"]
    assert hang["hit"] and hang["spared"] and not hang["spared_losses"]
    assert hang["lost_after_s"] < 5
    assert hang["elsewhere"]


def test_a_killed_replica_loses_its_streams_at_once(results: Results) -> None:
    kill = results["kill"]
    assert kill["hit"] and kill["losses"] == kill["hit"]
    assert kill["lost_after_s"] < 2
    assert kill["spared_go_on"] and not kill["spared_losses"]


def test_ingress_has_neither_torch_nor_transformers(server: Cluster) -> None:
    pids = server.processes(INGRESS)
    assert len(pids) == 2
    for pid in pids:
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "tokenizers" in mapped
        assert "libtorch" not in mapped
        assert "safetensors" not in mapped, "transformers, which brings it, is loaded"


def test_channel_works_in_the_default_mode_of_serve() -> None:
    config = integration_config(embedded_too=False)
    del config["controller_options"]
    cluster = Cluster(config)
    try:
        cluster.start()
        results = drive(cluster, ["pinned", "breaks", "cancels"])
        with httpx.stream(
            "POST",
            f"{cluster.base_url}/v1/completions",
            json={
                "prompt": "Once",
                "max_tokens": 8,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        ) as response:
            lines = [line for line in response.iter_lines() if line]
            usage = json.loads(lines[-2].removeprefix("data: "))["usage"]
    finally:
        cluster.stop()
    assert results["pinned"] == {"replicas": 2, "processes": 2}
    assert (results["breaks"]["whole"], results["breaks"]["disorder"]) == (STREAMS, 0)
    assert results["cancels"]["jobs"] == 0
    assert lines[-1] == "data: [DONE]" and usage["completion_tokens"] == 8
