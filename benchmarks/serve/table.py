"""A result as tables in Markdown: what the clients saw, what the servers cost, and where the CPU time went."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.serve.results import BenchmarkResult, TargetResult
from benchmarks.serve.roles import in_order
from benchmarks.serve.targets import MODEL_TARGETS, REFERENCE_TARGET

MIB = 1024 * 1024
MAX_PROBLEMS = 3


def render(result: BenchmarkResult) -> str:
    """All tables, then the servers that failed and the problems that clients reported."""
    measured = [target for target in result.targets if target.runs]
    parts = [_introduction(result)]
    if measured:
        parts += [_delivery(measured), _cost(result, measured), _roles(measured), _idle(measured)]
    ours, theirs = (result.target(name) for name in MODEL_TARGETS)
    if ours is not None and theirs is not None:
        our_rate, their_rate = (
            target.median(lambda run: run.observation.tokens_per_s) for target in (ours, theirs)
        )
        if our_rate and their_rate:
            parts.append(f"tokens/s, {ours.title} over {theirs.title}: {our_rate / their_rate:.2f} x")
    parts += [
        f"{target.title}: failed: {(target.failure or '').splitlines()[0]}"
        for target in result.targets
        if target.failure
    ]
    for target in measured:
        problems = {problem for run in target.runs for problem in run.observation.problems}
        parts += [f"{target.title}: {problem}" for problem in sorted(problems)[:MAX_PROBLEMS]]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(header, widths), "| " + " | ".join(rule) + " |", *(_line(row, widths) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cells[0].ljust(widths[0])] + [
        cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)
    ]
    return "| " + " | ".join(padded) + " |"


def _introduction(result: BenchmarkResult) -> str:
    workload, machine = result.workload, result.machine
    if workload.rate_per_s is None:
        load = f"{workload.clients} clients, closed loop"
    else:
        load = f"{workload.rate_per_s:g} requests/s, open loop"
    stalled = f", {workload.readers_stalled} more that never read" if workload.readers_stalled else ""
    return (
        f"{load}{stalled}; {workload.requests} streams of {workload.tokens} tokens; first token after "
        f"{result.first_token_s * 1e3:g} ms, one every {result.step_s * 1e3:g} ms.\n"
        f"{machine.cpus} CPUs ({machine.cpu_model}), Python {machine.python}, Linux {machine.kernel}, {result.taken_at}."
    )


def _delivery(targets: Sequence[TargetResult]) -> str:
    header = [
        *("delivery", "TTFT p50", "p95", "p99 ms", "ITL p50", "p95", "p99 ms"),
        *("tokens/s", "goodput", "complete"),
    ]
    fields = ("p50", "p95", "p99")
    rows = []
    for target in targets:
        latencies = [target.median_of(lambda run: run.observation.ttft_ms, field) for field in fields]
        latencies += [target.median_of(lambda run: run.observation.itl_ms, field) for field in fields]
        goodput = target.median(lambda run: run.observation.goodput_share)
        complete = sum(run.observation.outcomes.get("complete", 0) for run in target.runs)
        asked = sum(run.observation.streams + run.observation.dropped for run in target.runs)
        row = [target.title, *(_number(latency, 1) for latency in latencies)]
        row.append(_number(target.median(lambda run: run.observation.tokens_per_s), 0))
        row.append("-" if goodput is None else f"{goodput * 100:.0f} %")
        row.append(f"{complete}/{asked}")
        rows.append(row)
    return table(header, rows)


def _cost(result: BenchmarkResult, targets: Sequence[TargetResult]) -> str:
    header = [
        *("cost", "CPU µs/token", "less background", f"x {REFERENCE_TARGET}", "client µs/token"),
        *("other CPUs busy", "memory grown MiB", "start s"),
    ]
    reference = _cpu(result.target(REFERENCE_TARGET))
    rows = []
    for target in targets:
        cpu = _cpu(target)
        row = [target.title, _number(cpu, 1)]
        row.append(_number(target.median(lambda run: run.cpu_us_per_token_without_background), 1))
        row.append(f"{cpu / reference:.2f}" if cpu is not None and reference else "-")
        row.append(_number(target.median(lambda run: run.client_cpu_us_per_token), 1))
        row.append(_number(target.median(lambda run: run.other_cpus), 2))
        row.append(_number(target.median(lambda run: run.usage.rss_growth_bytes / MIB), 1))
        row.append(f"{target.start_s:.1f}")
        rows.append(row)
    return table(header, rows)


def _cpu(target: TargetResult | None) -> float | None:
    return target.median(lambda run: run.cpu_us_per_token) if target else None


def _roles(targets: Sequence[TargetResult]) -> str:
    roles = in_order(
        {role for target in targets for run in target.runs for role in run.cpu_us_per_token_by_role}
    )
    rows = [[target.title, *(_number(target.median_cpu_us(role), 1) for role in roles)] for target in targets]
    return table(["CPU µs/token", *roles], rows)


def _idle(targets: Sequence[TargetResult]) -> str:
    roles = in_order({role for target in targets for role in target.idle_cpus})
    rows = []
    for target in targets:
        idle_ms = {role: cpus * 1e3 for role, cpus in target.idle_cpus.items()}
        rows.append([target.title, *(_number(idle_ms.get(role), 1) for role in roles)])
    return table(["idle, CPU ms/s", *roles], rows)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
