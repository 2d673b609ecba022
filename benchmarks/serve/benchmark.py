"""The benchmark: one server after the other, each started, warmed up, left idle for a while, loaded, and stopped.

The failure of a server is a result, and the next server follows. No process that was started outlives `run_benchmark`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import sleep

import msgspec

from benchmarks.serve.accounting import usage_between
from benchmarks.serve.load import LoadFailed, run_load
from benchmarks.serve.machine import this_machine
from benchmarks.serve.results import BenchmarkResult, TargetResult, run_result
from benchmarks.serve.samples import Limits, observe
from benchmarks.serve.server import Server, ServerFailed, running
from benchmarks.serve.targets import TARGETS, Launch, Plan

WARM_UP_TOKENS = 20
WARM_UP_TRIES = 3
SETTLE_S = 1.0

Say = Callable[[str], None]


class Options(msgspec.Struct, frozen=True):
    """Which targets, the limits of goodput, loads per target, idle seconds before the loads, client processes."""

    targets: Sequence[str]
    limits: Limits
    repeat: int = 1
    idle_s: float = 5.0
    client_processes: int = 1


def run_benchmark(plan: Plan, options: Options, say: Say) -> BenchmarkResult:
    """Measures all targets and reports progress to `say`."""
    machine = this_machine()
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    targets = [measure_target(name, plan, options, say) for name in options.targets]
    return BenchmarkResult(
        taken_at=taken_at,
        machine=machine,
        workload=plan.workload,
        limits=options.limits,
        first_token_s=plan.first_token_s,
        step_s=plan.step_s,
        targets=targets,
    )


def measure_target(name: str, plan: Plan, options: Options, say: Say) -> TargetResult:
    """Starts, measures and stops one server."""
    with tempfile.TemporaryDirectory(prefix="streaming-inference-bench-") as directory:
        title = name
        try:
            launch = TARGETS[name](plan, Path(directory))
            title = launch.title
            say(f"{title}: starting")
            with running(launch.command, ports=launch.ports, environment=launch.environment) as server:
                server.wait_until_healthy(launch.endpoint.port, launch.health_path, launch.start_timeout_s)
                say(f"{title}: healthy after {server.start_s:.1f} s")
                return _measure_server(name, server, launch, options, say)
        except (ServerFailed, LoadFailed, OSError, ValueError) as error:
            say(f"{title}: failed: {error}")
            return TargetResult(name=name, title=title, failure=str(error))


def _measure_server(name: str, server: Server, launch: Launch, options: Options, say: Say) -> TargetResult:
    _warm_up(server, launch)
    sleep(SETTLE_S)
    before = server.snapshot()
    sleep(options.idle_s)
    idle = usage_between(before, server.snapshot())
    idle_cpus = {role: used.cpu_s / idle.window_s for role, used in idle.roles.items()}
    runs = []
    for number in range(options.repeat):
        load = run_load(
            launch.endpoint, launch.workload, processes=options.client_processes, moment=server.snapshot
        )
        observation = observe(load.samples, options.limits, dropped=load.dropped)
        usage = usage_between(load.before, load.after)
        runs.append(run_result(observation, usage, idle_cpus, load.client_cpu_s))
        seen = runs[-1].observation
        itl = f"ITL p50 {seen.itl_ms.p50:.1f} p99 {seen.itl_ms.p99:.1f} ms" if seen.itl_ms else "no ITL"
        say(
            f"{launch.title}: run {number + 1} of {options.repeat}: {runs[-1].cpu_us_per_token:.0f} µs CPU per token, {itl}, "
            f"{seen.tokens_per_s:.0f} tokens/s, {seen.outcomes}"
        )
        sleep(SETTLE_S)
    return TargetResult(
        name=name,
        title=launch.title,
        endpoint=launch.endpoint,
        start_s=server.start_s,
        idle_cpus=idle_cpus,
        runs=runs,
    )


def _warm_up(server: Server, launch: Launch) -> None:
    """Runs every part of the server with as many streams as later. Raises `ServerFailed` when no stream is complete."""
    workload = msgspec.structs.replace(
        launch.workload,
        requests=launch.workload.clients,
        tokens=min(WARM_UP_TOKENS, launch.workload.tokens),
        rate_per_s=None,
        ramp_s=0.0,
        readers_stalled=0,
    )
    outcomes: set[str] = set()
    for _ in range(WARM_UP_TRIES):
        load = run_load(launch.endpoint, workload, processes=1, moment=server.snapshot)
        outcomes = {sample.problem or sample.outcome for sample in load.samples}
        if outcomes == {"complete"}:
            return
        sleep(SETTLE_S)
    if "complete" not in outcomes:
        problems = "; ".join(sorted(outcomes)[:3])
        raise ServerFailed(f"no stream of the warm-up was complete: {problems}\n{server.log_tail()}")
