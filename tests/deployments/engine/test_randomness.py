from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.randomness import mix, uniform


def test_mix_is_splitmix64() -> None:
    """The first outputs of the published generator when its state is 0."""
    assert mix(0) == 0xE220A8397B1DCDAF
    assert mix(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


def test_uniform_stays_what_it_was() -> None:
    """A change here changes the output of every seeded request."""
    assert round(uniform(1234, 0, 0), 12) == 0.323102120879
    assert round(uniform(1234, 3, 17), 12) == 0.483093326212
    assert round(uniform(-1, 0, 0), 12) == 0.984438361911


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 127), st.integers(0, 1 << 20))
def test_uniform_is_below_one(seed: int, choice: int, position: int) -> None:
    assert 0.0 <= uniform(seed, choice, position) < 1.0


def test_uniform_is_uniform_and_uncorrelated() -> None:
    for numbers in (
        [uniform(seed, 0, 0) for seed in range(20000)],
        [uniform(5, choice, 3) for choice in range(20000)],
        [uniform(5, 0, position) for position in range(20000)],
    ):
        assert abs(sum(numbers) / len(numbers) - 0.5) < 0.01
        tenths = [0] * 10
        for number in numbers:
            tenths[int(number * 10)] += 1
        assert max(abs(count - 2000) for count in tenths) < 200
        products = sum((a - 0.5) * (b - 0.5) for a, b in pairwise(numbers))
        assert abs(products / len(numbers)) < 0.003
