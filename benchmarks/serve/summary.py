"""Percentiles and summaries of lists of numbers, exact and without any library."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Summary(msgspec.Struct, frozen=True):
    """A distribution in a few numbers, in the unit of its values."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    maximum: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the ascending values lies, interpolated between its two neighbours.

    Raises `ValueError` for no values and for a share outside of 0 to 1.
    """
    if not ordered:
        raise ValueError("no values")
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, not at {share}")
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = math.ceil(position)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def summarize(values: Sequence[float]) -> Summary | None:
    """The summary of `values` in any order; None when there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return Summary(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        p50=percentile(ordered, 0.50),
        p95=percentile(ordered, 0.95),
        p99=percentile(ordered, 0.99),
        maximum=ordered[-1],
    )


def median(values: Sequence[float]) -> float:
    """The middle of `values`. Raises `ValueError` for none."""
    return percentile(sorted(values), 0.5)
