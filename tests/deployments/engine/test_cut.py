from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.cut import cut


@given(
    rows=st.integers(1, 4),
    size=st.sampled_from([1, 7, 300]),
    kinds=st.sampled_from([3, 50, 10_000]),
    share=st.floats(0.001, 1.0),
    seed=st.integers(0, 1 << 30),
)
def test_the_cut_is_where_a_sort_finds_it(rows: int, size: int, kinds: int, share: float, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    depths = torch.randint(0, kinds, (rows, size), generator=source) / 7.0
    depths[:, size // 2 :] *= 1.0001
    depths[0, 0] = float("inf")
    amounts = torch.randint(0, 1 << 44, (rows, size), generator=source)
    amounts[:, 0] += 1
    limits = amounts.sum(dim=-1, keepdim=True).double() * share
    found, before = cut(depths, amounts, limits)
    for row in range(rows):
        ahead = {float(d): int(amounts[row][depths[row] < d].sum()) for d in depths[row]}
        with_less = [d for d, amount in ahead.items() if amount < float(limits[row, 0])]
        # Tokens that count nothing lie behind the same amount as the last that counts.
        assert ahead[float(found[row, 0])] == int(before[row, 0]) == ahead[max(with_less)]
        assert float(found[row, 0]) <= max(with_less)
