"""Quantiles and summaries, against numbers worked out by hand."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serve.summary import Summary, quantiles, summarize

numbers = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=50)


def test_exact_values() -> None:
    values = [float(value) for value in range(1, 102)]
    assert summarize(values[::-1]) == Summary(
        count=101, mean=51.0, p50=51.0, p95=96.0, p99=100.0, maximum=101.0
    )


@pytest.mark.parametrize(("percent", "expected"), [(25, 17.5), (50, 25.0), (95, 38.5)])
def test_between_two_values(percent: int, expected: float) -> None:
    assert quantiles([40.0, 20.0, 30.0, 10.0], 100)[percent - 1] == expected


@given(numbers)
def test_the_median_is_the_standard_library_s(values: list[float]) -> None:
    summary = summarize(values)
    assert summary is not None
    assert summary.p50 == pytest.approx(statistics.median(values))


@given(numbers, st.integers(1, 99))
def test_a_percentile_splits_the_values(values: list[float], percent: int) -> None:
    found = quantiles(values, 100)[percent - 1]
    assert min(values) <= found <= max(values)
    below = sum(1 for value in values if value < found - 1e-9)
    assert below <= percent / 100 * (len(values) - 1) + 1


def test_each_quantile_of_one_value_is_that_value() -> None:
    assert quantiles([7.0], 4) == [7.0, 7.0, 7.0]
    assert summarize([7.0]) == Summary(count=1, mean=7.0, p50=7.0, p95=7.0, p99=7.0, maximum=7.0)


def test_nothing_has_no_summary_and_no_quantiles() -> None:
    assert summarize([]) is None
    with pytest.raises(ValueError, match="at least"):
        quantiles([], 4)
