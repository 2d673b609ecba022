"""The tokens of a sequence that were generated elsewhere, as places where this engine chooses again.

The logits at these places are made anyway when the sequence is computed. So the choice at each of them can be compared with the
token that was handed over: see `divergences`.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from app.schema.sampling import SamplingParams
from deployments.engine.scheduler import Chunk
from deployments.engine.sequence import Sequence
from deployments.engine.token_counts import TokenCounts

MOST_CHECKED = 128
"""The handed-over tokens that one step checks: each takes a row of logits as wide as the vocabulary."""


@dataclass(frozen=True, slots=True)
class HandedOverToken:
    """Token number `position` of `sequence`. Implements `SampledSequence`: it is the sequence as it was before this token.

    `sampling` asks for no log probabilities.
    """

    sequence: Sequence
    position: int
    sampling: SamplingParams
    counts: TokenCounts | None

    @property
    def choice(self) -> int:
        return self.sequence.choice

    @property
    def sent(self) -> int:
        """The token that was handed over."""
        return self.sequence.tokens[self.sequence.prompt_length + self.position]


def handed_over_tokens(chunk: Chunk) -> list[HandedOverToken]:
    """Those that the logits of `chunk` are to be compared with, in order."""
    positions, sequence = chunk.unchecked, chunk.sequence
    if not positions:
        return []
    sampling = msgspec.structs.replace(sequence.sampling, logprobs=None)
    prompt, generated = sequence.tokens[: sequence.prompt_length], sequence.tokens[sequence.prompt_length :]
    counts = TokenCounts.for_request(sampling, prompt, generated[: positions.start])
    tokens = []
    for position in positions:
        before = None if counts is None else counts.copy()
        tokens.append(HandedOverToken(sequence, position, sampling, before))
        if counts is not None:
            counts.add(generated[position])
    return tokens


def limit_checks(chunks: list[Chunk]) -> list[Chunk]:
    """`chunks`, cut so that they have no more than `MOST_CHECKED` tokens to check in all. What is cut off is for later steps."""
    left = MOST_CHECKED
    limited = []
    for chunk in chunks:
        positions = chunk.unchecked
        if len(positions) > left:
            end = chunk.sequence.prompt_length - 1 + positions[left]
            chunk = Chunk(chunk.sequence, chunk.start, end - chunk.start)
        left -= min(len(positions), left)
        if chunk.count:
            limited.append(chunk)
    return limited
