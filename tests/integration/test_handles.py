"""Streams through handles, with both of Serve's ways to carry calls between processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest

from tests.integration.cluster import ROOT, Cluster
from tests.integration.conftest import SINGLE
from tests.integration.handle_driver import LONG

DRIVER_TIMEOUT_S = 200
FREED_S = 2.0
SCENARIOS = [
    *("whole", "resumed", "refused", "unknown", "unknown_to_cancel", "broken", "cancelled", "dropped"),
    "application",
]

Results = dict[str, dict[str, Any]]


def command(*scenarios: str) -> list[str]:
    return [sys.executable, "-m", "tests.integration.handle_driver", *scenarios]


def environment(cluster: Cluster, transport: str) -> dict[str, str]:
    """Calls go over gRPC if the caller asks for it; a driver that knows nothing of that uses Ray's actor calls."""
    use_grpc = "1" if transport == "grpc" else "0"
    return {
        **cluster.environment,
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": use_grpc,
        "RAY_ADDRESS": cluster.ray_address,
    }


@pytest.fixture(scope="module", params=["grpc", "actor"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def results(server: Cluster, transport: str) -> Results:
    finished = subprocess.run(
        command(*SCENARIOS),
        cwd=ROOT,
        env=environment(server, transport),
        capture_output=True,
        text=True,
        timeout=DRIVER_TIMEOUT_S,
    )
    found = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    assert finished.returncode == 0, f"{found}\n{finished.stderr[-4000:]}"
    print(json.dumps(found, indent=1))
    return {result.pop("scenario"): result for result in found}


def test_a_stream_is_that_of_http(server: Cluster, results: Results) -> None:
    answer = httpx.post(f"{server.base_url}/v1/streams", json={**LONG, "stream": False}, timeout=60).json()
    for result in (results["whole"], results["application"]["whole"]):
        assert (result["kinds"], result["whole"]) == (["delta", "end", "start"], True)
        assert result["hashes"] == answer["text_sha256"]


def test_a_call_that_is_left_is_continued_by_another(results: Results) -> None:
    assert results["resumed"]["whole"]
    assert results["resumed"]["hashes"] == results["whole"]["hashes"]


def test_an_error_before_the_first_frame_is_raised_as_it_is(server: Cluster, results: Results) -> None:
    wrong = {**LONG, "temperature": 2.5}
    said = httpx.post(f"{server.base_url}/v1/streams", json=wrong).json()["error"]
    refused = results["refused"]
    assert refused["service_error"]
    assert {name: refused[name] for name in ("code", "param", "message")} == {
        name: said[name] for name in ("code", "param", "message")
    }
    assert results["application"]["refused"]["param"] == "n"
    assert (results["unknown"]["service_error"], results["unknown"]["code"]) == (True, "stream_not_found")
    assert results["unknown_to_cancel"]["code"] == "stream_not_found"


def test_an_error_in_the_middle_is_a_frame(results: Results) -> None:
    assert results["broken"]["last"] == "timeout" and results["broken"]["frames"] > 5


def test_a_stream_is_cancelled_by_its_name(results: Results) -> None:
    assert results["cancelled"] == {"state": "ended", "end": "cancelled"}


def test_a_call_that_is_dropped_frees_its_place(results: Results) -> None:
    assert results["dropped"]["freed_s"] < FREED_S
    assert results["application"]["freed_s"] < FREED_S


def test_a_caller_that_is_killed_frees_its_place(server: Cluster) -> None:
    """Over gRPC. Nobody tells an actor that the caller of one of its methods is dead: there the stream goes on to its end."""
    driver = subprocess.Popen(
        command("hang"), cwd=ROOT, env=environment(server, "grpc"), stdout=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout is not None
        assert any("hang" in line for line in driver.stdout), "the caller has no stream"
    finally:
        driver.kill()
        driver.communicate()
    began_s = time.monotonic()
    short = {"model": SINGLE, "prompt": "y", "max_tokens": 1, "stream": False}
    answer = httpx.post(f"{server.base_url}/v1/streams", json=short, timeout=60)
    took_s = time.monotonic() - began_s
    print(f"\nfree {took_s:.3f} s after the caller was killed")
    assert answer.status_code == 200
    assert took_s < FREED_S
