"""Log probabilities in the older shape of completions: tokens by their spelling, and where each one's text begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from app.schema.frames import Delta, Logprob, TopLogprob
from app.schema.openai_answers import CompletionLogprobs

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BACKSLASH = 0x5C

PieceLengths = Callable[[int, int, int], Sequence[int]]
"""Of a choice (its index), the lengths in characters of what each token from one number to before another released."""


class TextOffsets:
    """Where in the released text of its choice each token's text begins. Deltas come in order, from the start.

    Without `piece_lengths` all text of a delta is that of its last token.
    """

    def __init__(self, piece_lengths: PieceLengths | None) -> None:
        self._piece_lengths = piece_lengths
        self._released: dict[int, int] = {}

    def of(self, delta: Delta) -> list[int]:
        """The offsets of the delta's tokens."""
        if self._piece_lengths is None:
            lengths: Sequence[int] = [0] * (delta.tokens - 1) + [len(delta.text)]
        else:
            end = int(delta.cursor.split(".")[delta.index])
            lengths = self._piece_lengths(delta.index, end - delta.tokens, end)
        *offsets, released = accumulate(lengths, initial=self._released.get(delta.index, 0))
        self._released[delta.index] = released
        return offsets


def completion_logprobs(logprobs: Sequence[Logprob], offsets: Sequence[int]) -> CompletionLogprobs:
    """Log probabilities in the older shape of completions; `offsets` say where the tokens' text begins, in characters."""
    return {
        "tokens": [_spelled(logprob) for logprob in logprobs],
        "token_logprobs": [logprob.logprob for logprob in logprobs],
        "top_logprobs": [_by_token(logprob) for logprob in logprobs],
        "text_offset": list(offsets),
    }


def _by_token(logprob: Logprob) -> dict[str, float]:
    """The alternatives and the sampled token. One that reads like an earlier one is written by its bytes."""
    found = {_spelled(logprob): logprob.logprob}
    for top in logprob.top_logprobs:
        name = _spelled(top)
        if found.get(name, top.logprob) != top.logprob:
            name = _byte_spelling(top)
        found[name] = max(top.logprob, found.get(name, top.logprob))
    return found


def _spelled(logprob: Logprob | TopLogprob) -> str:
    """The token as OpenAI's completions write it: `bytes:\\xe3` where it is not whole characters."""
    if _REPLACEMENT not in logprob.token or bytes(logprob.bytes or ()) == logprob.token.encode():
        return logprob.token
    return _byte_spelling(logprob)


def _byte_spelling(logprob: Logprob | TopLogprob) -> str:
    spelled = (
        chr(byte) if 0x20 <= byte < 0x7F and byte != _BACKSLASH else f"\\x{byte:02x}"
        for byte in logprob.bytes or ()
    )
    return f"bytes:{''.join(spelled)}"
