"""`bench` on the command line: what it hands on, what it writes, how it ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from benchmarks import cli as bench_command
from benchmarks.serve.benchmark import Options, Say
from benchmarks.serve.machine import this_machine
from benchmarks.serve.results import BenchmarkResult, TargetResult
from benchmarks.serve.targets import DEFAULT_TARGETS, Plan
from streaming_inference import cli


class Benchmark:
    """Stands in for `run_benchmark`."""

    def __init__(self, failure: str | None = None) -> None:
        self.calls: list[tuple[Plan, Options]] = []
        self.failure = failure

    def __call__(self, plan: Plan, options: Options, say: Say) -> BenchmarkResult:
        self.calls.append((plan, options))
        say("working")
        return BenchmarkResult(
            taken_at="now",
            machine=this_machine(),
            workload=plan.workload,
            limits=options.limits,
            first_token_s=plan.first_token_s,
            step_s=plan.step_s,
            targets=[TargetResult("plain", "Plain", failure=self.failure)],
        )


def test_what_is_given_is_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benchmark = Benchmark()
    monkeypatch.setattr(bench_command, "run_benchmark", benchmark)
    output = tmp_path / "found.json"
    words = "bench serve --target plain --target litserve --clients 7 --tokens 9 --rate 3 --readers-stalled 2 --repeat 3"
    found = CliRunner().invoke(cli.main, [*words.split(), "--ttft-limit-ms", "150", "--output", str(output)])
    assert found.exit_code == 0, found.output
    ((plan, options),) = benchmark.calls
    assert (plan.workload.clients, plan.workload.requests, plan.workload.tokens) == (7, 14, 9)
    assert (plan.workload.rate_per_s, plan.workload.readers_stalled) == (3.0, 2)
    assert (list(options.targets), options.repeat, options.limits.ttft_s) == (["plain", "litserve"], 3, 0.15)
    assert msgspec.json.decode(output.read_bytes(), type=BenchmarkResult).workload == plan.workload
    assert "<svg" in output.with_suffix(".svg").read_text()
    assert "7 clients" not in found.stdout and "3 requests/s, open loop" in found.stdout
    assert "working" in found.stderr and "working" not in found.stdout


def test_without_matplotlib_there_is_no_plot_and_all_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_command, "run_benchmark", Benchmark())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "benchmarks.serve.plot", raising=False)
    output = tmp_path / "found.json"
    found = CliRunner().invoke(cli.main, ["bench", "serve", "--output", str(output)])
    assert found.exit_code == 0, found.output
    assert output.exists() and not output.with_suffix(".svg").exists()
    assert "no plot:" in found.stderr and "streaming-inference[bench]" in found.stderr
    assert "streams of 300 tokens" in found.stdout


def test_defaults_and_the_status_of_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benchmark = Benchmark(failure="no port")
    monkeypatch.setattr(bench_command, "run_benchmark", benchmark)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(cli.main, ["bench", "serve"])
    assert found.exit_code == 1
    assert tuple(benchmark.calls[0][1].targets) == DEFAULT_TARGETS
    assert len(list((tmp_path / "results").glob("serve-*.json"))) == 1


@pytest.mark.parametrize("words", ["--clients 0", "--tokens 0", "--target nginx", "--duration inf"])
def test_nonsense_is_a_usage_error(words: str) -> None:
    found = CliRunner().invoke(cli.main, ["bench", "serve", *words.split()])
    assert found.exit_code == 2


def test_a_benchmark_that_is_told_to_end_stops_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    def run_benchmark(plan: Plan, options: Options, say: Say) -> BenchmarkResult:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            stopped.append("server")
        raise AssertionError

    monkeypatch.setattr(bench_command, "run_benchmark", run_benchmark)
    before = signal.getsignal(signal.SIGTERM)
    found = CliRunner().invoke(cli.main, ["bench", "serve"])
    assert (found.exit_code, stopped) == (143, ["server"])
    assert signal.getsignal(signal.SIGTERM) is before
