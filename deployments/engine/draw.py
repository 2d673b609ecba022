"""Draws one token of each row, in proportion to its weight, by the Gumbel-max method.

The token with the largest `log(weight) + g` is drawn, where `g = -log(-log(u))` is a Gumbel variate that belongs to seed, choice,
position and token id (Maddison, Tarlow and Minka, "A* sampling", 2014). Here it stands as the same comparison the other way
round: the token with the least `-log(u) / weight`, a race of exponential clocks. It is exact in distribution, as an inverse
cumulative distribution is. But a small disturbance of the logits moves only close races, where it would move all of a cumulative
sum.

Weights are whole numbers (`weights_of`), so sums of them are exact, in any order and on any device.
"""

from __future__ import annotations

import torch

from deployments.engine.waits import waits

BLOCK = 256
"""The token ids that are drawn from together: first a block, then a token of it. So a row costs one hash for each block, and one
for each token of one block."""
_BLOCKS_FROM = 1 << 40
"""What is hashed for a block. Token ids are below it."""
_SCALE = 2.0**44
"""The weight of the likeliest token. The sum of a vocabulary of less than 2**19 tokens fits 63 bits; a token that is less likely
by a factor of more than 2**44 is not drawn."""


def weights_of(depths: torch.Tensor) -> torch.Tensor:
    """How likely tokens are: (any shape), int64. `depths`: (any shape), float32, how far a scaled logit is below the largest."""
    return (depths.neg().exp_() * _SCALE).long()


def draw(weights: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """A token of each row: (rows,), int64. `weights`: (rows, vocab_size), int64; `keys`: (rows, 1), int64, of `place_key`."""
    weights = _in_blocks(weights)
    rows, blocks, _ = weights.shape
    numbers = torch.arange(max(blocks, BLOCK), device=weights.device)[None]
    block = _first(weights.sum(dim=-1), waits(keys, numbers[:, :blocks] + _BLOCKS_FROM))[:, None]
    inside = weights[torch.arange(rows, device=weights.device), block[:, 0]]
    ids = block * BLOCK + numbers[:, :BLOCK]
    return ids[:, 0] + _first(inside, waits(keys, ids))


def draw_of(ids: torch.Tensor, weights: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """A token of some in each row: (rows,), int64. `ids` and `weights`: (rows, candidates), int64; `keys`: (rows, 1), int64."""
    return ids.gather(1, _first(weights, waits(keys, ids))[:, None])[:, 0]


def _in_blocks(values: torch.Tensor) -> torch.Tensor:
    """`values` cut into blocks, the last filled up with zeros: (rows, blocks, BLOCK). `values`: (rows, vocab_size)."""
    rest = -values.shape[1] % BLOCK
    if rest:
        values = torch.nn.functional.pad(values, (0, rest))
    return values.view(values.shape[0], -1, BLOCK)


def _first(weights: torch.Tensor, waiting: torch.Tensor) -> torch.Tensor:
    """The winner of each race: (rows,), int64. `weights`: (rows, items), int64; `waiting`: (rows, items), float64."""
    return (waiting / weights).argmin(dim=-1)
