"""A result as one SVG image: the CPU time of each server by role, and the gaps that its clients saw."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.serve.results import BenchmarkResult, TargetResult
from benchmarks.serve.roles import in_order

WIDTH = 900
LABEL_WIDTH = 260
VALUE_WIDTH = 90
ROW_HEIGHT = 30
BAR_HEIGHT = 18
HEAD_HEIGHT = 44
# Colour-blind safe, after Okabe and Ito; then greys.
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"),
    *("#555555", "#777777", "#999999", "#bbbbbb", "#cccccc", "#dddddd", "#eeeeee"),
)


def render_svg(result: BenchmarkResult) -> str:
    """The image. Servers that failed are left out."""
    targets = [target for target in result.targets if target.runs]
    cpu, cpu_height = _cpu_chart(targets, HEAD_HEIGHT)
    gaps, gap_height = _gap_chart(targets, result.step_s * 1e3, HEAD_HEIGHT * 2 + cpu_height)
    height = HEAD_HEIGHT * 2 + cpu_height + gap_height + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n' + "\n".join([*cpu, *gaps]) + "\n</svg>\n"
    )


def _cpu_chart(targets: Sequence[TargetResult], top: float) -> tuple[list[str], float]:
    roles = in_order(
        {role for target in targets for run in target.runs for role in run.cpu_us_per_token_by_role}
    )
    colours = {role: COLOURS[index % len(COLOURS)] for index, role in enumerate(roles)}
    sums = {target.name: target.median(lambda run: run.cpu_us_per_token) or 0.0 for target in targets}
    scale = _bar_width() / max([*sums.values(), 1e-9])
    elements = [_title("CPU time per delivered token, all server processes (µs)", top)]
    for row, target in enumerate(targets):
        y = top + row * ROW_HEIGHT
        elements.append(_label(target.title, y))
        x = float(LABEL_WIDTH)
        for role in roles:
            share = _role(target, role) * scale
            elements.append(_bar(x, y, share, colours[role], f"{role}: {_role(target, role):.1f}"))
            x += share
        elements.append(_text(x + 6, y + 14, f"{sums[target.name]:.0f}"))
    legend_top = top + len(targets) * ROW_HEIGHT
    elements += _legend(colours, legend_top)
    return elements, len(targets) * ROW_HEIGHT + 20 * (1 + (len(roles) - 1) // 7) + 16


def _role(target: TargetResult, role: str) -> float:
    return target.median(lambda run: run.cpu_us_per_token_by_role.get(role)) or 0.0


def _gap_chart(targets: Sequence[TargetResult], step_ms: float, top: float) -> tuple[list[str], float]:
    values = {target.name: _gaps(target) for target in targets}
    highest = max([step_ms, *(p99 for _, p99 in values.values())])
    scale = _bar_width() / highest
    elements = [
        _title("time between two deltas at the client: p50 and p99 (ms); the line is the engine's step", top)
    ]
    for row, target in enumerate(targets):
        y = top + row * ROW_HEIGHT
        p50, p99 = values[target.name]
        elements.append(_label(target.title, y))
        elements.append(_bar(LABEL_WIDTH, y, p99 * scale, "#bbbbbb", f"p99: {p99:.1f} ms"))
        elements.append(_bar(LABEL_WIDTH, y, p50 * scale, "#0072b2", f"p50: {p50:.1f} ms"))
        elements.append(_text(LABEL_WIDTH + p99 * scale + 6, y + 14, f"{p50:.1f} / {p99:.1f}"))
    x = LABEL_WIDTH + step_ms * scale
    bottom = top + len(targets) * ROW_HEIGHT
    elements.append(
        f'<line x1="{x:.1f}" y1="{top - 4:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="#d55e00"/>'
    )
    return elements, len(targets) * ROW_HEIGHT


def _gaps(target: TargetResult) -> tuple[float, float]:
    p50 = target.median(lambda run: run.observation.gap_ms.p50 if run.observation.gap_ms else None)
    p99 = target.median(lambda run: run.observation.gap_ms.p99 if run.observation.gap_ms else None)
    return p50 or 0.0, p99 or 0.0


def _bar_width() -> float:
    return WIDTH - LABEL_WIDTH - VALUE_WIDTH


def _legend(colours: dict[str, str], top: float) -> list[str]:
    elements = []
    for index, (role, colour) in enumerate(colours.items()):
        x, y = 10 + index % 7 * 125, top + index // 7 * 20
        elements.append(f'<rect x="{x}" y="{y:.1f}" width="12" height="12" fill="{colour}"/>')
        elements.append(_text(x + 17, y + 10, role))
    return elements


def _title(text: str, top: float) -> str:
    return f'<text x="10" y="{top - 14:.1f}" font-size="14" font-weight="bold">{escape(text)}</text>'


def _label(text: str, y: float) -> str:
    return f'<text x="{LABEL_WIDTH - 8}" y="{y + 14:.1f}" text-anchor="end">{escape(text)}</text>'


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _bar(x: float, y: float, width: float, colour: str, hint: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{BAR_HEIGHT}" fill="{colour}">'
        f"<title>{escape(hint)}</title></rect>"
    )
