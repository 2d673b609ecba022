"""Results as JSON, tables and a plot, compared with files that were read and found right."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import msgspec
import pytest
from matplotlib.patches import Rectangle

from benchmarks.serve.accounting import RoleUsage, Usage
from benchmarks.serve.machine import Machine, this_machine
from benchmarks.serve.plot import draw, render_svg
from benchmarks.serve.results import BenchmarkResult, RunResult, TargetResult, run_result, write_result
from benchmarks.serve.samples import Limits, Observation, StreamSample, observe
from benchmarks.serve.table import render, table
from benchmarks.serve.workload import Endpoint, Workload

FOLDER = Path(__file__).parent / "expected"
LIMITS = Limits(ttft_s=0.2, itl_s=0.05)
MIB = 1024 * 1024


def observation(step_s: float, streams: int, problem: str | None = None) -> Observation:
    samples = [
        StreamSample(
            due_s=0.0,
            sent_s=0.0,
            ended_s=1.0 + step_s * 100,
            outcome="complete" if problem is None or index else "broken",
            arrivals_s=[0.03 + step_s * token for token in range(100)],
            tokens=[1] * 100,
            problem=None if index else problem,
        )
        for index in range(streams)
    ]
    return observe(samples, LIMITS)


def usage(**cpu_s: float) -> Usage:
    roles = {
        role.replace("_", " "): RoleUsage(
            processes=1, cpu_s=value, rss_bytes=50 * MIB, rss_growth_bytes=3 * MIB
        )
        for role, value in cpu_s.items()
    }
    return Usage(window_s=4.0, roles=roles, machine_busy_s=6.0, ended=[])


def example() -> BenchmarkResult:
    plain = run_result(observation(0.02, 10), usage(server=0.04), {"server": 0.001}, 0.02)
    idle = {"raylet": 0.005, "ingress": 0.01, "gcs": 1.0}
    ours = [
        run_result(
            observation(step_s, 10),
            usage(haproxy=0.02, ingress=0.03 * factor, generator=0.01, raylet=0.03, gcs=0.004),
            idle,
            0.02,
        )
        for factor, step_s in ((1, 0.02), (3, 0.021), (2, 0.02))
    ]
    slow = run_result(observation(0.06, 4, "the body has no end"), usage(proxy=0.2, replica_X=0.1), {}, 0.02)
    return BenchmarkResult(
        taken_at="2026-01-02T03:04:05+00:00",
        machine=Machine(2, "a processor", 8 << 30, "6.1", "3.11.7", {"ray": "2.60.0"}, 0.25),
        workload=Workload(clients=10, requests=10, tokens=100, readers_stalled=2),
        limits=LIMITS,
        first_token_s=0.02,
        step_s=0.02,
        targets=[
            TargetResult(
                "plain", "plain <server>", Endpoint(80, "/generate", "plain"), 0.5, {"server": 0.001}, [plain]
            ),
            TargetResult("project", "this & that", Endpoint(8000, "/v1/streams", "native"), 34.0, idle, ours),
            TargetResult("project-model", "ours", None, 3.0, {}, [plain]),
            TargetResult("transformers", "theirs", None, 3.0, {}, [slow]),
            TargetResult("litserve", "LitServe", failure="it did not start\nand said more"),
        ],
    )


def test_cpu_time_per_token_with_and_without_the_background() -> None:
    run: RunResult = example().targets[1].runs[0]
    assert run.observation.delivered_tokens == 1000
    assert run.cpu_us_per_token == pytest.approx(94)
    # 20 ms of the raylet and all of the gcs (which used less than it does when idle); never of the ingress.
    assert run.cpu_us_per_token_without_background == pytest.approx(94 - 20 - 4)
    assert run.cpu_us_per_token_by_role["ingress"] == pytest.approx(30)
    assert run.client_cpu_us_per_token == pytest.approx(20)
    assert run.other_cpus == pytest.approx((6.0 - 0.094 - 0.02) / 4)


def test_medians_over_runs() -> None:
    target = example().targets[1]
    assert target.median(lambda run: run.cpu_us_per_token_by_role["ingress"]) == pytest.approx(60)
    assert target.median(lambda run: None) is None


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "result.json"
    write_result(example(), path)
    assert path.read_bytes() == (FOLDER / "result.json").read_bytes()
    assert msgspec.json.decode(path.read_bytes(), type=BenchmarkResult) == example()


def test_tables() -> None:
    assert render(example()) == (FOLDER / "tables.md").read_text()


def test_a_benchmark_in_which_everything_failed() -> None:
    result = msgspec.structs.replace(example(), targets=example().targets[4:])
    assert render(result).splitlines()[-1] == "LitServe: failed: it did not start"
    xml.etree.ElementTree.fromstring(render_svg(result))


def test_a_table() -> None:
    assert (
        table(["a", "b"], [["xx", "1"], ["y", "22"]]) == "| a  |  b |\n| :- | -: |\n| xx |  1 |\n| y  | 22 |"
    )


def test_the_plot_is_an_image_with_every_server_that_was_measured() -> None:
    image = xml.etree.ElementTree.fromstring(render_svg(example()))
    texts = [element.text for element in image.iter("{http://www.w3.org/2000/svg}text")]
    assert {"plain <server>", "this & that", "haproxy", "ingress", "replica X"} <= set(texts)
    assert "LitServe" not in texts
    assert render_svg(example()) == render_svg(example())
    for axes in draw(example()).axes:
        bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert bars and max(bar.get_x() + bar.get_width() for bar in bars) <= axes.get_xlim()[1]


def test_this_machine() -> None:
    machine = this_machine()
    assert machine.cpus >= 1 and machine.memory_bytes > 0 and "starlette" in machine.packages
