"""Percentiles and summaries, against numbers worked out by hand."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serve.summary import Summary, median, percentile, summarize

numbers = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=50)


def test_exact_values() -> None:
    values = [float(value) for value in range(1, 102)]
    assert summarize(values[::-1]) == Summary(
        count=101, mean=51.0, p50=51.0, p95=96.0, p99=100.0, maximum=101.0
    )


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 10.0), (0.25, 17.5), (0.5, 25.0), (0.95, 38.5), (1.0, 40.0)]
)
def test_between_two_values(share: float, expected: float) -> None:
    assert percentile([10.0, 20.0, 30.0, 40.0], share) == expected


@given(numbers)
def test_the_median_is_the_standard_library_s(values: list[float]) -> None:
    assert median(values) == pytest.approx(statistics.median(values))


@given(numbers, st.floats(0, 1))
def test_a_percentile_splits_the_values(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert ordered[0] <= found <= ordered[-1]
    below = sum(1 for value in values if value < found - 1e-9)
    assert below <= share * (len(values) - 1) + 1


def test_nothing_has_no_summary_and_no_percentile() -> None:
    assert summarize([]) is None
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile([1.0], 1.5)
