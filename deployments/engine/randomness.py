"""The random numbers that sampling uses: hashes of (seed, choice, position) and of what is drawn, never a state.

So a token doesn't depend on its neighbours in the batch, on preemption, or on the replica that samples it.
The mixing is splitmix64's finalizer (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), applied
once for each part. Changing it changes the output of every seeded request.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_FIRST_FACTOR = 0xBF58476D1CE4E5B9
_SECOND_FACTOR = 0x94D049BB133111EB


def mix(value: int) -> int:
    """splitmix64 of `value`: 64 well-mixed bits."""
    value = (value + _STEP) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST_FACTOR) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND_FACTOR) & _MASK
    return value ^ (value >> 31)


def mix_all(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`mix` of every element. `values`: (any shape), uint64. Returns the same shape."""
    values = values + np.uint64(_STEP)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FIRST_FACTOR)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_SECOND_FACTOR)
    return values ^ (values >> np.uint64(31))


def place_key(seed: int, choice: int, position: int) -> int:
    """The key of token `position` of choice `choice`: 64 bits, as a signed number."""
    return _signed(mix(mix(mix(seed & _MASK) ^ choice) ^ position))


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
    values = values + _signed(_STEP)
    values = (values ^ _shifted(values, 30)) * _signed(_FIRST_FACTOR)
    values = (values ^ _shifted(values, 27)) * _signed(_SECOND_FACTOR)
    return values ^ _shifted(values, 31)


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """`values` as unsigned numbers, shifted to the right. `values`: (any shape), int64."""
    return (values >> bits) & (_MASK >> bits)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
