"""Chooses the next token of each row of logits, each by its own request.

A token depends on its row, its request and its position, on nothing else. Rows are split by what they need: greedy rows take the
likeliest token; rows without filters draw from the whole vocabulary; rows with filters from what `filters` leaves. How a token is
drawn stands in `draw`. Everything stays on the device until one copy at the end; only rows whose filters reach far need another.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from app.schema.sampling import SamplingParams
from app.schema.tokens import TokenLogprob
from deployments.engine.draw import draw, draw_of, weights_of
from deployments.engine.filters import of_candidates, of_vocabulary
from deployments.engine.logprobs import LogprobReport
from deployments.engine.masks import apply_masks
from deployments.engine.penalties import adjust
from deployments.engine.randomness import place_key
from deployments.engine.sampled_sequence import SampledSequence


@dataclass(frozen=True, slots=True)
class Sample:
    """The token of one row; None where the logits were not finite."""

    token: int | None
    logprob: TokenLogprob | None = None


class Sampler:
    """`end_ids` are the model's own end tokens."""

    def __init__(self, end_ids: frozenset[int]) -> None:
        self._end_ids = end_ids

    @torch.inference_mode()
    def sample(
        self, logits: torch.Tensor, sequences: Items[SampledSequence], masks: Items[bytes | None] = ()
    ) -> list[Sample]:
        """One sample for each row. `logits`: (rows, vocab_size), of any float dtype; float32 logits are changed.

        `masks`: what each row may be; none where no row has one.
        """
        logits = logits.float()
        report = LogprobReport(logits, sequences)
        adjust(logits, sequences, self._end_ids)
        if masks:
            apply_masks(logits, masks)
        peaks, tokens = logits.max(dim=-1)
        finite = peaks.isfinite()
        complete = torch.ones_like(finite)
        drawn = [row for row, sequence in enumerate(sequences) if sequence.sampling.temperature > 0]
        filtered = [row for row in drawn if _has_filter(sequences[row].sampling)]
        plain = [row for row in drawn if not _has_filter(sequences[row].sampling)]
        if plain:
            rows = _rows(logits, peaks, sequences, plain)
            tokens[rows.index] = draw(weights_of(rows.depths), rows.keys)
        if filtered:
            rows = _rows(logits, peaks, sequences, filtered)
            ids, weights, held = of_candidates(rows.depths, rows.params)
            tokens[rows.index] = draw_of(ids, weights, rows.keys)
            complete[rows.index] = held
        chosen, are_finite, are_complete = torch.stack([tokens, finite, complete]).tolist()
        flat = [place for place, row in enumerate(filtered) if are_finite[row] and not are_complete[row]]
        if flat:
            rows = rows.part(flat)
            tokens[rows.index] = draw(of_vocabulary(rows.depths, rows.params), rows.keys)
            chosen = tokens.tolist()
        reports = report.read(chosen)
        return [
            Sample(token, reports.get(row)) if good else Sample(None)
            for row, (token, good) in enumerate(zip(chosen, are_finite, strict=True))
        ]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some rows of a step, as what is drawn from them needs it.

    `index`: (rows,), int64, their places in the step; `keys`: (rows, 1), int64, of their random numbers; `depths`: (rows,
    vocab_size), float32, how far each logit is below the largest, divided by the temperature.
    """

    params: list[SamplingParams]
    index: torch.Tensor
    keys: torch.Tensor
    depths: torch.Tensor

    def part(self, places: list[int]) -> _Rows:
        """Those at `places`."""
        index = torch.tensor(places).to(self.index.device, non_blocking=True)
        params = [self.params[place] for place in places]
        return _Rows(params, self.index[index], self.keys[index], self.depths[index])


def _rows(
    logits: torch.Tensor, peaks: torch.Tensor, sequences: Items[SampledSequence], rows: list[int]
) -> _Rows:
    """`logits`: (len(sequences), vocab_size), float32; `peaks`: (len(sequences),), the largest logit of each row."""
    chosen = [sequences[row] for row in rows]
    params = [sequence.sampling for sequence in chosen]
    index = torch.tensor(rows).to(logits.device, non_blocking=True)
    keys = torch.tensor([[place_key(s.sampling.seed, s.choice, s.position)] for s in chosen])
    temperatures = torch.tensor([[p.temperature] for p in params], dtype=logits.dtype)
    if len(rows) < len(sequences):
        logits, peaks = logits[index], peaks[index]
    depths = (peaks[:, None] - logits).div_(temperatures.to(logits.device, non_blocking=True))
    return _Rows(params, index, keys.to(logits.device, non_blocking=True), depths)


def _has_filter(sampling: SamplingParams) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
