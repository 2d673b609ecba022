"""A whole benchmark: real processes of the plain baseline, driven by real client processes, and servers that fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.serve import benchmark, targets
from benchmarks.serve.benchmark import Options, run_benchmark
from benchmarks.serve.samples import Limits
from benchmarks.serve.server import free_port
from benchmarks.serve.targets import Launch, Plan
from benchmarks.serve.workload import Endpoint, Workload

LIMITS = Limits(ttft_s=5.0, itl_s=5.0)
WORKLOAD = Workload(clients=8, requests=16, tokens=20)


def plan(workload: Workload = WORKLOAD) -> Plan:
    return Plan(workload, 0.01, 0.01, Path("serve_config.yaml"), Path("no-model"))


def test_the_plain_baseline_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SETTLE_S", 0.0)
    said: list[str] = []
    options = Options(["plain"], LIMITS, repeat=2, idle_s=0.1, client_processes=2)
    result = run_benchmark(plan(), options, said.append)
    (target,) = result.targets
    assert target.failure is None
    assert target.start_s > 0
    assert len(target.runs) == 2
    for run in target.runs:
        seen = run.observation
        assert seen.outcomes == {"complete": 16} and seen.problems == []
        assert seen.delivered_tokens == 320
        assert seen.itl_ms is not None and seen.itl_ms.p50 == pytest.approx(10, rel=0.5)
        assert seen.ttft_ms is not None and seen.ttft_ms.p50 >= 10
        assert list(run.usage.roles) == ["server"]
        assert run.usage.roles["server"].processes == 1
        assert 0 < run.cpu_us_per_token < 10_000
        assert run.client_cpu_us_per_token > 0
        assert run.usage.window_s >= 0.4
    assert said[0] == "uvicorn + Starlette, one process: starting"


def test_a_server_that_fails_is_a_result_and_the_next_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def crashing(plan: Plan, directory: Path) -> Launch:
        port = free_port()
        return Launch(
            title="crashing",
            command=[sys.executable, "-c", "raise SystemExit('no luck')"],
            endpoint=Endpoint(port, "/", "plain"),
            workload=plan.workload,
            ports=[port],
            environment={},
        )

    def unconfigured(plan: Plan, directory: Path) -> Launch:
        raise OSError("no such configuration")

    monkeypatch.setitem(targets.TARGETS, "plain", crashing)
    monkeypatch.setitem(targets.TARGETS, "project", unconfigured)
    result = run_benchmark(plan(), Options(["plain", "project"], LIMITS), lambda line: None)
    assert [(target.title, target.runs) for target in result.targets] == [("crashing", []), ("project", [])]
    assert "no luck" in (result.targets[0].failure or "")
    assert result.targets[1].failure == "no such configuration"
