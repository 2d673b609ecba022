"""The random variates that tokens are drawn by: `randomness` in tensors."""

from __future__ import annotations

import torch

from deployments.engine.randomness import FIRST_FACTOR, MASK, SECOND_FACTOR, STEP, signed


def waits(keys: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """How long each item waits: independent exponential variates of rate 1, more than 0. (rows, items), float64.

    `keys`: (rows, 1), int64, of `place_key`; `items`: (rows or 1, items), int64. A variate depends on its key and its item alone,
    and is `-log(u)` of one of 2**53 equally spaced u.
    """
    values = _mix_tensor(_mix_tensor(items) ^ keys)
    uniforms = (_shifted(values, 11).double() + 0.5) * 2.0**-53
    return uniforms.log_().neg_()


def _mix_tensor(values: torch.Tensor) -> torch.Tensor:
    """`mix` of every element, in the arithmetic of int64, which wraps. `values`: (any shape), int64."""
    values = values + signed(STEP)
    values = (values ^ _shifted(values, 30)) * signed(FIRST_FACTOR)
    values = (values ^ _shifted(values, 27)) * signed(SECOND_FACTOR)
    return values ^ _shifted(values, 31)


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """`values` as unsigned numbers, shifted to the right. `values`: (any shape), int64."""
    return (values >> bits) & (MASK >> bits)
