"""Distributions in a few numbers.

Every quantile here is interpolated linearly between the two nearest values, and the smallest and the largest value are the
ends of the scale: quantile k of n lies at position `k / n * (count - 1)` of the ascending values, counted from 0. That is
method "inclusive" of the standard library's `statistics.quantiles`, and the default of numpy.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Summary(msgspec.Struct, frozen=True):
    """A distribution, in the unit of its values."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    maximum: float


def quantiles(values: Sequence[float], parts: int) -> list[float]:
    """The `parts` - 1 quantiles of `values` in any order; with 100 parts the percentiles 1 to 99.

    Each quantile of a single value is that value. Raises `ValueError` for no values.
    """
    # Up to Python 3.12 the standard library asks for two values.
    return statistics.quantiles(
        values if len(values) > 1 else [*values, *values], n=parts, method="inclusive"
    )


def summarize(values: Sequence[float]) -> Summary | None:
    """The summary of `values` in any order; None when there are none."""
    if not values:
        return None
    percentiles = quantiles(values, 100)
    return Summary(
        count=len(values),
        mean=statistics.fmean(values),
        p50=percentiles[49],
        p95=percentiles[94],
        p99=percentiles[98],
        maximum=max(values),
    )
