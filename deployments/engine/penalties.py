"""What a request changes in the logits before sampling: penalties, bias, and the ban on ending before
`min_tokens`.

The order is: repetition (over prompt and output), then presence and frequency (over the output), then bias,
then the ban. Only the few entries that change are touched, for all rows of a step in one go.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch

from deployments.engine.sampled_sequence import SampledSequence


def adjust(logits: torch.Tensor, sequences: Items[SampledSequence], end_ids: frozenset[int]) -> None:
    """Changes `logits` in place, row i as the request of `sequences[i]` asks for its next token.

    `logits`: (rows, vocab_size), float32.
    """
    _penalize(logits, sequences)
    rows: list[int] = []
    tokens: list[int] = []
    values: list[float] = []
    for row, sequence in enumerate(sequences):
        sampling = sequence.sampling
        bias = sampling.logit_bias
        if bias:
            rows += [row] * len(bias)
            tokens += bias.keys()
            values += bias.values()
        if sequence.position < sampling.min_tokens:
            stops = frozenset(sampling.stop_token_ids)
            banned = stops if sampling.ignore_eos else stops | end_ids
            rows += [row] * len(banned)
            tokens += banned
            values += [float("-inf")] * len(banned)
    if rows:
        places = torch.tensor([rows, tokens]).to(logits.device, non_blocking=True)
        amounts = torch.tensor(values, dtype=logits.dtype).to(logits.device, non_blocking=True)
        logits.index_put_((places[0], places[1]), amounts, accumulate=True)


def _penalize(logits: torch.Tensor, sequences: Items[SampledSequence]) -> None:
    """Applies the three penalties in place. `logits`: (rows, vocab_size), float32."""
    penalized = [(row, s.counts, s.sampling) for row, s in enumerate(sequences) if s.counts]
    if not penalized:
        return
    lengths = torch.tensor([len(counts) for _, counts, _ in penalized])
    numbers = torch.tensor(
        [[row, p.repetition_penalty, p.presence_penalty, p.frequency_penalty] for row, _, p in penalized],
        dtype=torch.float64,
    )
    rows, repetition, presence, frequency = (
        numbers.repeat_interleave(lengths, dim=0).to(logits.device).unbind(1)
    )
    tokens = torch.cat([counts.tokens for _, counts, _ in penalized]).to(logits.device)
    counts = torch.cat([counts.counts for _, counts, _ in penalized]).to(logits.device)
    places = (rows.long(), tokens)
    values = logits[places]
    repetition = repetition.to(values.dtype)
    values = torch.where(values < 0, values * repetition, values / repetition)
    values = values - presence.to(values.dtype) * (counts > 0) - frequency.to(values.dtype) * counts
    logits[places] = values
