from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.randomness import mix, place_key
from deployments.engine.waits import waits
from tests.deployments.engine.chi_square import check_frequencies


def test_waits_stay_what_they_were() -> None:
    """A change here changes the output of every seeded request."""
    [found] = waits(torch.tensor([[place_key(1234, 0, 0)]]), torch.tensor([[0, 1, 50_000]])).tolist()
    assert [round(wait, 12) for wait in found] == [0.192410653219, 4.861234029829, 0.164219896168]


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 127),
    st.integers(0, 1 << 20),
    st.lists(st.integers(0, 1 << 41), min_size=1, max_size=9),
)
def test_a_wait_is_a_hash_of_its_parts_alone(seed: int, choice: int, position: int, items: list[int]) -> None:
    key = place_key(seed, choice, position)
    assert -(2**63) <= key < 2**63
    [found] = waits(torch.tensor([[key]]), torch.tensor([items])).tolist()
    for item, wait in zip(items, found, strict=True):
        uniform = ((mix(mix(item) ^ (key % 2**64)) >> 11) + 0.5) * 2.0**-53
        assert 0 < uniform < 1
        assert wait == float(-torch.tensor([uniform], dtype=torch.float64).log()) > 0


def test_waits_are_exponential_and_uncorrelated_along_each_part() -> None:
    count = 20_000
    item = torch.tensor([[11]])
    for name, found in {
        "seeds": waits(torch.tensor([[place_key(seed, 0, 0)] for seed in range(count)]), item),
        "choices": waits(torch.tensor([[place_key(5, choice, 3)] for choice in range(count)]), item),
        "positions": waits(torch.tensor([[place_key(5, 0, position)] for position in range(count)]), item),
        "items": waits(torch.tensor([[place_key(5, 0, 3)]]), torch.arange(count)[None]),
    }.items():
        uniforms = (-found.flatten()).exp()
        counts = torch.bincount((uniforms * 100).long(), minlength=100)
        check_frequencies(counts, torch.full((100,), 0.01))
        products = sum((a - 0.5) * (b - 0.5) for a, b in pairwise(uniforms.tolist()))
        assert abs(products / count) < 0.003, name
