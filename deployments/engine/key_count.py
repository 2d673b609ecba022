"""How many keys an attention call takes for a number of tokens. The keys after the last token are masked.

A call over another number of keys adds in another order, and so gives other bits. These numbers agree with each other.
This file imports no torch.
"""

from __future__ import annotations

BLOCK_KEYS = 512
"""The keys that PyTorch's attention kernel for CPUs takes in one go."""

KEY_COUNTS = ((64, 64), (128, 128), (192, 192), (352, 384), (512, 512))
"""The keys of the last block, by the number of tokens there: up to 64 tokens 64 keys, and so on.

MKL cuts sums that are longer than 192, and where it cuts depends on the length: 256 after 128, 384 after 192, 512 after 192 and
352 (measured with AVX2; with AVX-512 it cuts no sum of a block).
"""


def key_count(tokens: int) -> int:
    """The number of keys that a call for `tokens` tokens takes: whole blocks, and of the last one what `KEY_COUNTS` says."""
    whole = max(tokens - 1, 0) // BLOCK_KEYS * BLOCK_KEYS
    return whole + next(count for most, count in KEY_COUNTS if tokens - whole <= most)
