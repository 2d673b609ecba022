from __future__ import annotations

import pytest
import torch

from deployments.engine.draw import BLOCK, draw, draw_of, weights_of
from deployments.engine.randomness import place_key
from tests.deployments.engine.chi_square import check_frequencies

DRAWS = 20_000


def keys(count: int) -> torch.Tensor:
    return torch.tensor([[place_key(seed, 0, 3)] for seed in range(count)])


@pytest.mark.parametrize("size", [5, BLOCK, BLOCK + 1, 3 * BLOCK - 7])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_tokens_come_as_often_as_their_weights_say(size: int, spread: float) -> None:
    depths = torch.randn(size, generator=torch.Generator().manual_seed(size)) * spread
    weights = weights_of(depths - depths.min())
    counts = torch.zeros(size)
    for part in keys(DRAWS).split(1000):
        drawn = draw(weights.expand(len(part), -1), part)
        counts += torch.bincount(drawn, minlength=size)
    check_frequencies(counts, weights.double() / weights.sum())


def test_candidates_come_as_often_as_their_weights_say_in_any_order() -> None:
    ids = torch.tensor([70, 3, 900, 12])
    weights = torch.tensor([5, 1, 0, 10]) << 40
    drawn = draw_of(ids.expand(DRAWS, -1), weights.expand(DRAWS, -1), keys(DRAWS))
    turned = draw_of(ids.flip(0).expand(DRAWS, -1), weights.flip(0).expand(DRAWS, -1), keys(DRAWS))
    assert torch.equal(drawn, turned)
    check_frequencies(torch.stack([(drawn == token).sum() for token in ids]), weights / weights.sum())


def test_weights_are_exact_in_sum_and_end_with_the_likeliest_by_a_factor_of_2_to_the_44th() -> None:
    depths = torch.tensor([0.0, 1.0, 30.4, 30.6, float("inf")])
    assert weights_of(depths).tolist()[0] == 1 << 44
    assert weights_of(depths).tolist()[3:] == [0, 0]
    assert weights_of(depths).tolist()[2] == 1
    assert weights_of(torch.zeros(1 << 18)).sum() == 1 << 62


def test_a_small_disturbance_moves_few_tokens() -> None:
    """An inverse cumulative distribution moves a tenth of them, by this noise."""
    source = torch.Generator().manual_seed(0)
    depths = torch.randn(2000, 4000, generator=source) * 2
    depths -= depths.amin(dim=-1, keepdim=True)
    noisy = depths + torch.randn(depths.shape, generator=source) * 0.01
    noisy -= noisy.amin(dim=-1, keepdim=True)
    moved = draw(weights_of(depths), keys(2000)) != draw(weights_of(noisy), keys(2000))
    assert int(moved.sum()) < 0.03 * 2000
