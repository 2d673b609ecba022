"""`streaming-inference bench`: options become a benchmark, its result becomes files and tables.

`streaming_inference.cli` loads this module by its name when the command is used.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.serve.benchmark import Options, run_benchmark
from benchmarks.serve.results import BenchmarkResult, write_result
from benchmarks.serve.samples import Limits
from benchmarks.serve.table import render
from benchmarks.serve.targets import DEFAULT_TARGETS, TARGETS, Plan
from benchmarks.serve.workload import Workload

_FILE = click.Path(path_type=Path)


@click.group()
def bench() -> None:
    """Measure servers on this machine."""


@bench.command("serve")
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(list(TARGETS)),
    help="Server to measure; may be repeated.",
)
@click.option("--clients", default=96, show_default=True, help="Concurrent streams.")
@click.option("--requests", type=int, help="Total streams.  [default: two for each client]")
@click.option("--tokens", default=300, show_default=True, help="Tokens per stream.")
@click.option("--rate", type=float, help="Requests per second, open loop.  [default: closed loop]")
@click.option("--duration", default=300.0, show_default=True, help="Seconds after which no stream starts.")
@click.option(
    "--timeout", default=120.0, show_default=True, help="Seconds after which the client abandons a stream."
)
@click.option(
    "--ramp", default=1.0, show_default=True, help="Seconds over which the clients of a closed loop start."
)
@click.option("--prompt-tokens", default=16, show_default=True, help="Approximate length of the prompt.")
@click.option(
    "--readers-stalled",
    default=0,
    show_default=True,
    help="Additional clients that send a request and never read.",
)
@click.option("--stalled-tokens", default=2048, show_default=True, help="Tokens that each of those asks for.")
@click.option("--step-s", default=0.02, show_default=True, help="Seconds between two tokens of a stream.")
@click.option(
    "--first-token-s", default=0.02, show_default=True, help="Seconds to the first token of a stream."
)
@click.option(
    "--ttft-limit-ms", default=200.0, show_default=True, help="For goodput: time to the first token."
)
@click.option(
    "--itl-limit-ms",
    "--gap-limit-ms",
    "itl_limit_ms",
    default=50.0,
    show_default=True,
    help="For goodput: the 99th percentile of a stream's ITL.",
)
@click.option("--repeat", default=1, show_default=True, help="Loads on each server; the tables show medians.")
@click.option(
    "--idle",
    "idle_s",
    default=5.0,
    show_default=True,
    help="Seconds without load in which the background is measured.",
)
@click.option("--client-processes", default=1, show_default=True, help="Processes that make the load.")
@click.option("--seed", default=1, show_default=True, help="Seed of the arrival times of an open loop.")
@click.option(
    "--config",
    type=_FILE,
    default="serve_config.yaml",
    show_default=True,
    help="The application's configuration.",
)
@click.option(
    "--model-path",
    type=_FILE,
    default="deployments/model/data",
    show_default=True,
    help="Directory of a real model.",
)
@click.option("--output", type=_FILE, help="JSON file; a plot goes beside it.  [default: in results/]")
def bench_serve(
    targets: tuple[str, ...],
    clients: int,
    requests: int | None,
    tokens: int,
    rate: float | None,
    duration: float,
    timeout: float,
    ramp: float,
    prompt_tokens: int,
    readers_stalled: int,
    stalled_tokens: int,
    step_s: float,
    first_token_s: float,
    ttft_limit_ms: float,
    itl_limit_ms: float,
    repeat: int,
    idle_s: float,
    client_processes: int,
    seed: int,
    config: Path,
    model_path: Path,
    output: Path | None,
) -> None:
    """Start servers one after the other, put the same load on each, and compare cost and delivery."""
    try:
        workload = Workload(
            clients=clients,
            requests=requests or 2 * clients,
            tokens=tokens,
            rate_per_s=rate,
            duration_s=duration,
            timeout_s=timeout,
            ramp_s=ramp,
            prompt_tokens=prompt_tokens,
            readers_stalled=readers_stalled,
            stalled_tokens=stalled_tokens,
            seed=seed,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    plan = Plan(workload, first_token_s, step_s, config, model_path)
    limits = Limits(ttft_s=ttft_limit_ms / 1e3, itl_s=itl_limit_ms / 1e3)
    options = Options(targets or DEFAULT_TARGETS, limits, repeat, idle_s, client_processes)
    with _leaving_in_order():
        result = run_benchmark(plan, options, lambda line: click.echo(line, err=True))
    path = output or Path("results") / f"serve-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    write_result(result, path)
    click.echo(render(result))
    click.echo(f"wrote {path}", err=True)
    _write_plot(result, path.with_suffix(".svg"))
    sys.exit(1 if any(target.failure for target in result.targets) else 0)


def _write_plot(result: BenchmarkResult, path: Path) -> None:
    try:
        from benchmarks.serve.plot import render_svg
    except ModuleNotFoundError as error:
        click.echo(
            f"no plot: {error}; pip install 'streaming-inference[bench]' installs what it needs", err=True
        )
        return
    path.write_text(render_svg(result))
    click.echo(f"wrote {path}", err=True)


@contextlib.contextmanager
def _leaving_in_order() -> Iterator[None]:
    """SIGTERM stops the running server before it ends this process, as SIGINT does."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
