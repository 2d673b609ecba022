"""How many prompt tokens a step takes, from the time that they have taken in the last steps.

A number of tokens says nothing about time: 512 tokens take 10 ms on one machine and 10 s on another, and every running stream
waits for them. So the budget is the number of tokens that adds `target_s` to a step. This file imports no torch.
"""

from __future__ import annotations

from collections import deque
from statistics import median

MIN_TOKENS = 16
"""A step takes so many however slow they are: the products of fewer rows take much longer for each row."""
FIRST_TOKENS = 32
"""Taken before anything is known."""
_SAMPLES = 3
_DRIFT = 1.001
"""The shortest step that was seen counts for so much more with each step, in case the machine has slowed down."""
_LEAST_SHARE = 0.25
"""Of the time of a step with prompt tokens, at least this part is taken to be theirs."""


class PrefillBudget:
    """`tokens` prompt tokens for the next step, between `MIN_TOKENS` and `max_tokens`.

    The cost of a token is the median of the last steps with prompt tokens, so that one interrupted step does not count. Steps
    without prompt tokens say what a step takes anyway. Where that is more than the target, as it is when the weights are large,
    the prompts get as much again: tiny chunks would make prompts many times slower and steps little shorter. The budget at most
    doubles from one measured step to the next; it falls at once.
    """

    def __init__(self, target_s: float, max_tokens: int) -> None:
        self._target_s = target_s
        self._max_tokens = max_tokens
        self._costs_s: deque[float] = deque(maxlen=_SAMPLES)
        self._decode_s = 0.0
        self._decode_tokens = 1
        self._shortest_s = 0.0
        self.tokens = min(FIRST_TOKENS, max_tokens)

    def record(self, prompt_tokens: int, decode_tokens: int, duration_s: float) -> None:
        """Takes the time of a step with `prompt_tokens` tokens of prompts and `decode_tokens` sequences that got their next."""
        if not prompt_tokens:
            self._decode_s, self._decode_tokens = duration_s, max(decode_tokens, 1)
            self._shortest_s = min(duration_s, self._shortest_s * _DRIFT or duration_s)
            return
        # Where fewer sequences run than were measured, they are taken to need as much less, but no less than any step does.
        share = min(1.0, max(decode_tokens, 1) / self._decode_tokens)
        running_s = max(self._decode_s * share, self._shortest_s)
        prompt_s = max(duration_s - running_s, duration_s * _LEAST_SHARE)
        target_s = max(self._target_s, running_s)
        if 2 * prompt_tokens < self.tokens and prompt_s < target_s:
            return  # a short prompt: its time is mostly what any step takes
        self._costs_s.append(prompt_s / prompt_tokens)
        affordable = int(target_s / max(median(self._costs_s), 1e-9))
        grown = max(2 * prompt_tokens, self.tokens)
        self.tokens = max(min(affordable, grown, self._max_tokens), min(MIN_TOKENS, self._max_tokens))
