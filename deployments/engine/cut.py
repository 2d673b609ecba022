"""Where a filter cuts the tokens of a row, ordered from the likeliest, without a sort of the vocabulary.

A depth is a float32 that is not negative; its bits, read as a whole number, order it. The cut is found as in a radix sort, from
the highest bits to the lowest: a histogram of what lies in each range of depths tells the range that the cut is in. Only the
tokens of that range are looked at again.
"""

from __future__ import annotations

import torch

_HIGH_BITS = 11
_LOW_BITS = (10, 10)
"""The sign is 0, so there are 31 bits."""


def cut(
    depths: torch.Tensor, amounts: torch.Tensor, limits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The greatest depth with less than the limit before it: (rows, 1), float32; and the amount before it: (rows, 1), int64.

    `depths`: (rows, vocab_size), float32; `amounts`: (rows, vocab_size), int64, what each token counts; `limits`: (rows, 1),
    float64, more than 0 and at most the amount of the whole row.
    """
    bits = depths.view(torch.int32)
    high = bits >> sum(_LOW_BITS)
    histogram = torch.zeros(len(depths), 1 << _HIGH_BITS, dtype=torch.int64, device=depths.device)
    histogram.scatter_add_(1, high.long(), amounts)
    prefix, before = _range_of(histogram, limits, torch.zeros_like(limits, dtype=torch.int64))
    rows, tokens = (high == prefix).nonzero(as_tuple=True)
    bits, amounts = bits[rows, tokens], amounts[rows, tokens]
    lower = sum(_LOW_BITS)
    for count in _LOW_BITS:
        lower -= count
        inside = (bits >> (lower + count)) == prefix[rows, 0]
        rows, bits, amounts = rows[inside], bits[inside], amounts[inside]
        places = (rows << count) + ((bits >> lower) & ((1 << count) - 1))
        histogram = torch.zeros(len(depths) << count, dtype=torch.int64, device=depths.device)
        histogram.scatter_add_(0, places, amounts)
        chosen, before = _range_of(histogram.view(len(depths), -1), limits, before)
        prefix = (prefix << count) | chosen
    return prefix.int().view(torch.float32), before


def _range_of(
    histogram: torch.Tensor, limits: torch.Tensor, before: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The range that the cut is in, and the amount before that range: both (rows, 1), int64.

    `histogram`: (rows, ranges), int64; `limits`: (rows, 1), float64; `before`: (rows, 1), int64, the amount before all ranges.
    """
    ahead = histogram.cumsum(dim=-1) - histogram + before
    chosen = (ahead < limits).sum(dim=-1, keepdim=True) - 1
    return chosen, ahead.gather(1, chosen)
