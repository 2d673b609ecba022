"""The uniform numbers that sampling uses: a hash of (seed, choice, position), never a state.

So a token doesn't depend on its neighbours in the batch, on preemption, or on the replica that samples it.
The mixing is splitmix64's finalizer, applied once for each of the three. Changing it changes the output of
every seeded request.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """splitmix64 of `value`: 64 well-mixed bits."""
    value = (value + _STEP) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def mix_all(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`mix` of every element. `values`: (any shape), uint64. Returns the same shape."""
    values = values + np.uint64(_STEP)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1), a multiple of 2**-53, that belongs to token `position` of choice `choice`."""
    return (mix(mix(mix(seed & _MASK) ^ choice) ^ position) >> 11) * 2.0**-53
