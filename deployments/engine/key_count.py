"""How many keys an attention call takes for a number of tokens. The keys after the last token are masked.

A call over another number of keys adds in another order, and so gives other bits. Most of these numbers agree with each other;
the *lone* ones agree with none, and the tokens that get one are computed in calls of their own. This file imports no torch.
"""

from __future__ import annotations

BLOCK_KEYS = 512
"""The keys that PyTorch's attention kernel for CPUs takes in one go."""

KEY_COUNTS = ((64, 64), (128, 128), (192, 192), (256, 256), (320, 320), (352, 384), (512, 512))
"""The keys of the last block, by the number of tokens there: up to 64 tokens 64 keys, and so on.

MKL cuts sums that are longer than 192, and where it cuts depends on the length: 256 after 128, 320 after 160, 384 after 192, 512
after 192 and 352 (measured with AVX2; with AVX-512 it cuts no sum of a block).
"""
LONE_COUNTS = (256, 320)
"""They are cut where no other number is. Without them a sequence of 200 tokens would read 384 keys."""


def key_count(tokens: int) -> int:
    """The number of keys that a call for `tokens` tokens takes: whole blocks, and of the last one what `KEY_COUNTS` says."""
    return _line(tokens)[1]


def lone_count(tokens: int) -> int:
    """The number of keys of each call for a token that attends to `tokens` tokens; 0 if any that agrees with others will do."""
    count = key_count(tokens)
    return count if count % BLOCK_KEYS in LONE_COUNTS else 0


def next_cut(tokens: int) -> int:
    """The most tokens that a token may attend to that is in one call with a token that attends to `tokens`."""
    count = lone_count(tokens)
    last = _line(tokens)[0]
    while lone_count(last + 1) == count:
        last = _line(last + 1)[0]
    return last


def _line(tokens: int) -> tuple[int, int]:
    """The line of `KEY_COUNTS` for `tokens` tokens, with the whole blocks before."""
    whole = max(tokens - 1, 0) // BLOCK_KEYS * BLOCK_KEYS
    most, count = next(line for line in KEY_COUNTS if tokens - whole <= line[0])
    return whole + most, whole + count
