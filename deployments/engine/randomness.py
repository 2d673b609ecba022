"""The random numbers that sampling uses: hashes of (seed, choice, position) and of what is drawn, never a state.

So a token doesn't depend on its neighbours in the batch, on preemption, or on the replica that samples it.
The mixing is splitmix64's finalizer (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), applied
once for each part. Changing it changes the output of every seeded request. This file imports no torch, which the simulated engine
does without.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15
FIRST_FACTOR = 0xBF58476D1CE4E5B9
SECOND_FACTOR = 0x94D049BB133111EB


def mix(value: int) -> int:
    """splitmix64 of `value`: 64 well-mixed bits."""
    value = (value + STEP) & MASK
    value = ((value ^ (value >> 30)) * FIRST_FACTOR) & MASK
    value = ((value ^ (value >> 27)) * SECOND_FACTOR) & MASK
    return value ^ (value >> 31)


def mix_all(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`mix` of every element. `values`: (any shape), uint64. Returns the same shape."""
    values = values + np.uint64(STEP)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(FIRST_FACTOR)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(SECOND_FACTOR)
    return values ^ (values >> np.uint64(31))


def place_key(seed: int, choice: int, position: int) -> int:
    """The key of token `position` of choice `choice`: 64 bits, as a signed number."""
    return signed(mix(mix(mix(seed & MASK) ^ choice) ^ position))


def signed(value: int) -> int:
    """64 bits as a signed number."""
    return value - (1 << 64) if value >> 63 else value
