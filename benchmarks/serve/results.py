"""The results of a benchmark: records that are written to a JSON file, and the figures derived from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.serve.accounting import Usage
from benchmarks.serve.machine import Machine
from benchmarks.serve.roles import RAY_RUNTIME
from benchmarks.serve.samples import Limits, Observation
from benchmarks.serve.summary import Summary
from benchmarks.serve.workload import Endpoint, Workload

FORMAT_VERSION = 2


class RunResult(msgspec.Struct, frozen=True):
    """One load. CPU times are per delivered token; the background is what Ray's daemons use without load."""

    observation: Observation
    usage: Usage
    cpu_us_per_token: float
    cpu_us_per_token_without_background: float
    cpu_us_per_token_by_role: dict[str, float]
    client_cpu_us_per_token: float
    other_cpus: float


class TargetResult(msgspec.Struct, frozen=True):
    """One server. `idle_cpus` is the CPUs that each role kept busy without load; `failure` says why there are no runs."""

    name: str
    title: str
    endpoint: Endpoint | None = None
    start_s: float = 0.0
    idle_cpus: dict[str, float] = {}
    runs: list[RunResult] = []
    failure: str | None = None

    def median(self, value: Callable[[RunResult], float | None]) -> float | None:
        """The median over the runs that have such a value."""
        values = [found for run in self.runs if (found := value(run)) is not None]
        return median(values) if values else None

    def median_cpu_us(self, role: str) -> float | None:
        """The median over the runs of the CPU time of `role` per token."""
        return self.median(lambda run: run.cpu_us_per_token_by_role.get(role))

    def median_of(self, summary: Callable[[RunResult], Summary | None], field: str) -> float | None:
        """The median over the runs of one field of a summary, for example `p99`."""
        return self.median(lambda run: getattr(found, field) if (found := summary(run)) else None)


class BenchmarkResult(msgspec.Struct, frozen=True):
    """A whole benchmark. `taken_at` is a time in UTC in the form of ISO 8601."""

    taken_at: str
    machine: Machine
    workload: Workload
    limits: Limits
    first_token_s: float
    step_s: float
    targets: list[TargetResult]
    format_version: int = FORMAT_VERSION

    def target(self, name: str) -> TargetResult | None:
        return next((target for target in self.targets if target.name == name), None)


def run_result(
    observation: Observation, usage: Usage, idle_cpus: dict[str, float], client_cpu_s: float
) -> RunResult:
    """Combines what the clients saw with what the server used in the same window."""
    tokens = max(1, observation.delivered_tokens)
    background_s = sum(
        min(idle_cpus.get(role, 0.0) * usage.window_s, used.cpu_s)
        for role, used in usage.roles.items()
        if role in RAY_RUNTIME
    )
    others_s = max(0.0, usage.machine_busy_s - usage.cpu_s - client_cpu_s)
    return RunResult(
        observation=observation,
        usage=usage,
        cpu_us_per_token=usage.cpu_s / tokens * 1e6,
        cpu_us_per_token_without_background=(usage.cpu_s - background_s) / tokens * 1e6,
        cpu_us_per_token_by_role={role: used.cpu_s / tokens * 1e6 for role, used in usage.roles.items()},
        client_cpu_us_per_token=client_cpu_s / tokens * 1e6,
        other_cpus=others_s / usage.window_s,
    )


def write_result(result: BenchmarkResult, path: Path) -> None:
    """Writes `result` as indented JSON; creates the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result, order="sorted"), indent=2) + b"\n")
