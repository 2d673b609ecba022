"""A result as one SVG image: the CPU time of each server by role, and the ITL that its clients saw.

matplotlib, which the extra `bench` installs, draws it. Only this module imports matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.serve.results import BenchmarkResult, TargetResult
from benchmarks.serve.roles import in_order

WIDTH_INCHES = 10.0
ROW_INCHES = 0.4
# Titles, axes and the legend.
FRAME_INCHES = 2.5
LEGEND_COLUMNS = 7
# Room for the number after the longest bar, as a share of that bar.
MARGIN = 0.15
# Colour-blind safe, after Okabe and Ito; then greys.
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"),
    *("#555555", "#777777", "#999999", "#bbbbbb", "#cccccc", "#dddddd", "#eeeeee"),
)
P50_COLOUR, P99_COLOUR, STEP_COLOUR = "#333333", "#bbbbbb", "#d55e00"


def render_svg(result: BenchmarkResult) -> str:
    """The image. Servers that failed are left out. The same result gives the same bytes."""
    image = io.StringIO()
    # Text stays text, and titles may have a dollar sign.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmark", "text.parse_math": False}):
        draw(result).savefig(image, format="svg", metadata={"Date": None})
    return image.getvalue()


def draw(result: BenchmarkResult) -> Figure:
    """The CPU chart above the ITL chart, with a row for each server that was measured."""
    targets = [target for target in result.targets if target.runs]
    height_inches = FRAME_INCHES + 2 * ROW_INCHES * len(targets)
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    cpu_axes, itl_axes = figure.subplots(2)
    _draw_cpu(cpu_axes, targets)
    _draw_itl(itl_axes, targets, result.step_s * 1e3)
    for axes in (cpu_axes, itl_axes):
        axes.set_yticks(range(len(targets)), [target.title for target in targets])
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    handles, roles = cpu_axes.get_legend_handles_labels()
    if roles:
        figure.legend(handles, roles, loc="outside lower center", ncols=LEGEND_COLUMNS, frameon=False)
    return figure


def _draw_cpu(axes: Axes, targets: Sequence[TargetResult]) -> None:
    roles = in_order(
        {role for target in targets for run in target.runs for role in run.cpu_us_per_token_by_role}
    )
    ends = [0.0] * len(targets)
    for index, role in enumerate(roles):
        shares = [target.median_cpu_us(role) or 0.0 for target in targets]
        axes.barh(range(len(targets)), shares, left=ends, color=COLOURS[index % len(COLOURS)], label=role)
        ends = [end + share for end, share in zip(ends, shares, strict=True)]
    for row, (target, end) in enumerate(zip(targets, ends, strict=True)):
        whole = target.median(lambda run: run.cpu_us_per_token) or 0.0
        axes.text(end, row, f" {whole:.0f}", verticalalignment="center")
    axes.set_xlim(0, (1 + MARGIN) * max([*ends, 1.0]))
    axes.set_title("CPU time per delivered token, all server processes (µs)", loc="left")


def _draw_itl(axes: Axes, targets: Sequence[TargetResult], step_ms: float) -> None:
    p50s_ms, p99s_ms = (
        [target.median_of(lambda run: run.observation.itl_ms, field) or 0.0 for target in targets]
        for field in ("p50", "p99")
    )
    axes.barh(range(len(targets)), p99s_ms, color=P99_COLOUR)
    axes.barh(range(len(targets)), p50s_ms, color=P50_COLOUR)
    for row, (p50_ms, p99_ms) in enumerate(zip(p50s_ms, p99s_ms, strict=True)):
        axes.text(max(p50_ms, p99_ms), row, f" {p50_ms:.1f} / {p99_ms:.1f}", verticalalignment="center")
    axes.axvline(step_ms, color=STEP_COLOUR)
    axes.set_xlim(0, (1 + MARGIN) * max([step_ms, *p99s_ms]))
    axes.set_title("ITL at the client: p50 and p99 (ms); the line is the engine's step", loc="left")
