"""Whether things came as often as they should."""

from __future__ import annotations

import math

import torch

_NORMAL_QUANTILE = 4.27
"""Passed by chance once in 100,000."""


def check_frequencies(counts: torch.Tensor, probabilities: torch.Tensor) -> None:
    """Pearson's test: fails a right distribution once in 100,000. `counts` and `probabilities`: (kinds,).

    Kinds that are expected fewer than 5 times are taken together. What has no probability must not come at all. The quantile is
    that of Wilson and Hilferty.
    """
    counts, expected = counts.double(), probabilities.double() * float(counts.sum())
    assert float(counts[expected == 0].sum()) == 0
    often = expected >= 5
    counts = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    counts, expected = counts[expected >= 5], expected[expected >= 5]
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    if freedom:
        share = 2 / (9 * freedom)
        assert statistic <= freedom * (1 - share + _NORMAL_QUANTILE * math.sqrt(share)) ** 3, (
            statistic,
            freedom,
        )
