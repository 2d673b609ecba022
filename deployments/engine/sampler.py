"""Chooses the next token of each row of logits, each by its own request.

A token depends on its row and on the request's uniform number for the position, on nothing else: the number
is looked up in the cumulative distribution (inverse CDF). Rows are split by what they need: greedy rows take
the likeliest token; rows without filters use the distribution in the order of token ids; filtered rows use
the likeliest candidates in descending order, ties by token id, and only rows whose filter reaches beyond
those sort the whole vocabulary. Filters apply in the order top_k, top_p, min_p, each to what the one before
left, as in transformers. Everything stays on the device until one copy at the end.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from app.schema.sampling import SamplingParams
from app.schema.tokens import TokenLogprob
from deployments.engine.logprobs import LogprobReport
from deployments.engine.penalties import adjust
from deployments.engine.randomness import uniform
from deployments.engine.sequence import Sequence

CANDIDATES = 256
"""How many of the likeliest tokens a filter looks at before it falls back to a full sort."""


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
    def sample(self, logits: torch.Tensor, sequences: Items[Sequence]) -> list[Sample]:
        """One sample for each row. `logits`: (rows, vocab_size), of any float dtype; float32 logits are changed."""
        logits = logits.float()
        report = LogprobReport(logits, sequences)
        adjust(logits, sequences, self._end_ids)
        peaks, tokens = logits.max(dim=-1)
        drawn = [row for row, sequence in enumerate(sequences) if sequence.sampling.temperature > 0]
        filtered = [row for row in drawn if _has_filter(sequences[row].sampling)]
        plain = [row for row in drawn if not _has_filter(sequences[row].sampling)]
        if plain:
            scaled, uniforms = _scaled(logits, peaks, sequences, plain)
            cumulative = scaled.exp_().cumsum(dim=-1)
            chosen = _look_up(cumulative, cumulative[:, -1:], uniforms)[:, 0]
            tokens = tokens.index_copy(0, _index(plain, logits), chosen)
        if filtered:
            params = [sequences[row].sampling for row in filtered]
            chosen = _choose_filtered(*_scaled(logits, peaks, sequences, filtered), params)
            tokens = tokens.index_copy(0, _index(filtered, logits), chosen)
        ids, finite = torch.stack([tokens, peaks.isfinite()]).tolist()
        reports = report.read(ids)
        return [
            Sample(token, reports.get(row)) if good else Sample(None)
            for row, (token, good) in enumerate(zip(ids, finite, strict=True))
        ]


def _has_filter(sampling: SamplingParams) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _index(rows: list[int], logits: torch.Tensor) -> torch.Tensor:
    """`rows` as (len(rows),), int64, on the device of `logits` (any shape)."""
    return torch.tensor(rows).to(logits.device, non_blocking=True)


def _column(values: list[float], logits: torch.Tensor) -> torch.Tensor:
    """`values` as (len(values), 1), with the dtype and on the device of `logits` (any shape)."""
    return torch.tensor(values, dtype=logits.dtype)[:, None].to(logits.device, non_blocking=True)


def _scaled(
    logits: torch.Tensor, peaks: torch.Tensor, sequences: Items[Sequence], rows: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of `rows` relative to their largest, divided by the temperature: (len(rows), vocab_size); and the
    uniform numbers of `rows`: (len(rows), 1).

    `logits`: (len(sequences), vocab_size), float32; `peaks`: (len(sequences),), the largest logit of each row.
    """
    chosen = [sequences[row] for row in rows]
    temperatures = _column([sequence.sampling.temperature for sequence in chosen], logits)
    uniforms = _column([uniform(s.sampling.seed, s.choice, s.position) for s in chosen], logits)
    if len(rows) < len(sequences):
        index = _index(rows, logits)
        logits, peaks = logits[index], peaks[index]
    return (logits - peaks[:, None]) / temperatures, uniforms


def _look_up(cumulative: torch.Tensor, totals: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first place in each row whose cumulative weight exceeds the row's share `uniforms` of `totals`:
    (rows, 1), int64.

    `cumulative`: (rows, candidates); `totals` and `uniforms`: (rows, 1).
    """
    target = torch.minimum(uniforms * totals, torch.nextafter(totals, torch.zeros_like(totals)))
    return torch.searchsorted(cumulative, target, right=True).clamp_(max=cumulative.shape[1] - 1)


def _choose_filtered(
    scaled: torch.Tensor, uniforms: torch.Tensor, params: list[SamplingParams]
) -> torch.Tensor:
    """The tokens of rows with filters: (rows,), int64. `scaled`: (rows, vocab_size); `uniforms`: (rows, 1)."""
    candidates = min(CANDIDATES, scaled.shape[1])
    # The likeliest candidates in descending order, equal ones by token id: topk alone leaves that order open.
    values, ids = scaled.topk(candidates, dim=-1)
    ids, order = ids.sort(dim=-1)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(1, order)
    filters = _Filters(params, scaled)
    chosen, exact = filters.choose(
        values, ids, scaled.exp().sum(dim=-1, keepdim=True), uniforms, scaled.shape[1]
    )
    if candidates == scaled.shape[1] or bool(exact.all()):
        return chosen
    again = (~exact).nonzero()[:, 0]
    values, ids = scaled[again].sort(dim=-1, descending=True, stable=True)
    filters = _Filters([params[row] for row in again.tolist()], scaled)
    totals = values.exp().sum(dim=-1, keepdim=True)
    resolved, _ = filters.choose(values, ids, totals, uniforms[again], scaled.shape[1])
    return chosen.index_copy(0, again, resolved)


class _Filters:
    """top_k, top_p and min_p of some rows. Each keeps the front of the sorted candidates, so together they
    keep the shortest front.
    """

    def __init__(self, params: list[SamplingParams], like: torch.Tensor) -> None:
        """`like`: (any number of rows, vocab_size) gives the vocabulary's size, the dtype and the device."""
        width = like.shape[1]
        top_k = [min(p.top_k, width) if p.top_k else width for p in params]
        self.top_k = torch.tensor(top_k)[:, None].to(like.device, non_blocking=True)
        self.top_p = _column([p.top_p for p in params], like)
        self.min_p = _column([p.min_p for p in params], like).log()

    def choose(
        self,
        values: torch.Tensor,
        ids: torch.Tensor,
        totals: torch.Tensor,
        uniforms: torch.Tensor,
        vocabulary: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The chosen token of each row: (rows,), int64; and whether the candidates suffice to know it: (rows,), bool.

        They suffice when the smallest candidate is below the last one kept: then all that equal that one are there.

        `values`: (rows, candidates), in descending order; `ids`: their tokens, (rows, candidates), int64; `totals`: the
        weight of the whole vocabulary, (rows, 1); `uniforms`: (rows, 1).
        """
        count = values.shape[1]
        last = values[:, -1:]
        threshold = values.gather(1, (self.top_k - 1).clamp(max=count - 1))
        limited = self.top_k < vocabulary
        inside_k = limited & (self.top_k <= count) & ((last < threshold) | (count == vocabulary))
        kept_k = torch.where(inside_k, (values >= threshold).sum(dim=-1, keepdim=True), count)

        cumulative = values.exp().cumsum(dim=-1)
        totals = torch.where(inside_k, cumulative.gather(1, kept_k - 1), totals)
        before = (cumulative - values.exp()) / totals
        kept_p = torch.where(self.top_p < 1, (before < self.top_p).sum(dim=-1, keepdim=True), count)
        kept_m = (values >= self.min_p).sum(dim=-1, keepdim=True)
        kept = torch.minimum(kept_k, torch.minimum(kept_p, kept_m)).clamp_(min=1)

        totals_known = ~limited | inside_k | (self.top_p >= 1)
        everything = torch.full_like(limited, count == vocabulary)
        reached = everything | (values.gather(1, kept - 1) > last)
        place = _look_up(cumulative, cumulative.gather(1, kept - 1), uniforms)
        return ids.gather(1, torch.minimum(place, kept - 1))[:, 0], (totals_known & reached)[:, 0]
