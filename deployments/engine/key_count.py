"""How many keys an attention call takes for a number of tokens. The keys after the last token are masked.

A call over another number of keys adds in another order, and so gives other bits. Most of these numbers agree with each other;
the *lone* ones agree with none, and the tokens that get one are computed in calls of their own. This file imports no torch.
"""

from __future__ import annotations

BLOCK_KEYS = 512
"""The keys that PyTorch's attention kernel for CPUs takes in one go."""

KEY_COUNTS = (64, 128, 192, 256, 320, 384, 512)
"""The keys of the last block: the first of these that the tokens there fit in."""
LONE_COUNTS = (256, 320, 384)
"""They are cut where no other number is, on one processor or another.

MKL cuts longer sums, and where it cuts depends on their length. With AVX2 it cuts 256 after 128, 320 after 160, 384 after 192 and
512 after 192; with AVX-512 on Emerald Rapids 512 after 256, and 320 and 384 nowhere; on an older AVX-512 processor no sum of a
block (all measured). So up to 192 keys agree with 512 everywhere. Without the lone counts a sequence of 200 tokens would read
512 keys.
"""


def key_count(tokens: int) -> int:
    """The number of keys that a call for `tokens` tokens takes: whole blocks, and of the last as many as `KEY_COUNTS` says."""
    whole = max(tokens - 1, 0) // BLOCK_KEYS * BLOCK_KEYS
    return whole + next(count for count in KEY_COUNTS if tokens - whole <= count)


def lone_count(tokens: int) -> int:
    """The number of keys of each call for a token that attends to `tokens` tokens; 0 if any that agrees with others will do."""
    count = key_count(tokens)
    return count if count % BLOCK_KEYS in LONE_COUNTS else 0


def next_cut(tokens: int) -> int:
    """The most tokens that a token may attend to that is in one call with a token that attends to `tokens`."""
    count = lone_count(tokens)
    last = key_count(tokens)
    while lone_count(last + 1) == count:
        last = key_count(last + 1)
    return last
