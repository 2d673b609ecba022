"""The tokens that top_k, top_p and min_p leave, in this order, each of what the one before left, as in transformers.

All that equal the last token that top_k keeps are kept too; top_p takes equal tokens in the order of their ids. The filters look
at the likeliest `CANDIDATES` first (`of_candidates`). Where those don't tell what is left, as with a flat distribution, they look
at the whole vocabulary (`of_vocabulary`).
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch

from app.schema.sampling import SamplingParams
from deployments.engine.cut import cut
from deployments.engine.draw import weights_of

CANDIDATES = 128


def of_candidates(
    depths: torch.Tensor, params: Items[SamplingParams]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The candidates: (rows, candidates), int64; their weights, 0 where a filter drops one, of the same shape; and whether no
    filter keeps a token that is no candidate: (rows,), bool.

    `depths`: (rows, vocab_size), float32, how far each scaled logit is below the largest.
    """
    size = depths.shape[1]
    count = min(CANDIDATES, size)
    held, ids = depths.topk(count, dim=-1, largest=False)
    # topk leaves the order of equal ones open.
    ids, order = ids.sort(dim=-1)
    held, order = held.gather(1, order).sort(dim=-1, stable=True)
    ids = ids.gather(1, order)
    top_k = _column([p.top_k or size for p in params], depths.device, torch.int64)
    deepest = held.gather(1, top_k.clamp(max=count) - 1)
    weights = weights_of(held)
    weights = torch.where((held <= deepest) | (top_k > count), weights, 0)
    totals = weights.sum(dim=-1, keepdim=True)
    if any(p.top_p < 1 and p.top_k == 0 for p in params):
        totals = torch.where(top_k < size, totals, weights_of(depths).sum(dim=-1, keepdim=True))
    before = weights.cumsum(dim=-1) - weights
    weights = torch.where(before < _limits(params, totals), weights, 0)
    weights = torch.where(held <= _deepest_of_min_p(params, depths.device), weights, 0)
    # Of tokens that equal the last candidate there may be more. And a top_k beyond the candidates leaves open what top_p counts.
    deepest = torch.where(weights > 0, held, 0).amax(dim=-1)
    complete = (deepest < held[:, -1]) & ((top_k <= count) | (top_k >= size))[:, 0]
    return ids, weights, complete | (count == size)


def of_vocabulary(depths: torch.Tensor, params: Items[SamplingParams]) -> torch.Tensor:
    """The weights of all tokens, 0 where a filter drops one: (rows, vocab_size), int64. `depths`: as in `of_candidates`."""
    size = depths.shape[1]
    weights = weights_of(depths)
    if any(0 < p.top_k < size for p in params):
        top_k = _column([min(p.top_k or size, size) for p in params], depths.device, torch.float64)
        deepest, _ = cut(depths, torch.ones_like(weights), top_k)
        weights = torch.where(depths <= deepest, weights, 0)
    if any(p.top_p < 1 for p in params):
        weights = _of_top_p(depths, weights, params)
    if any(p.min_p > 0 for p in params):
        weights = torch.where(depths <= _deepest_of_min_p(params, depths.device), weights, 0)
    return weights


def _of_top_p(depths: torch.Tensor, weights: torch.Tensor, params: Items[SamplingParams]) -> torch.Tensor:
    """`weights` with 0 where top_p drops a token. `depths` and `weights`: (rows, vocab_size)."""
    limits = _limits(params, weights.sum(dim=-1, keepdim=True))
    deepest, before = cut(depths, weights, limits)
    off = _column([p.top_p >= 1 for p in params], depths.device, torch.bool)
    weights = torch.where((depths <= deepest) | off, weights, 0)
    # Of the tokens at the cut, only the first by id are kept.
    equal = (depths == deepest) & ~off
    rows, tokens = equal.nonzero(as_tuple=True)
    counts = equal.sum(dim=-1)
    rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(dim=0) - counts)[rows]
    kept = ((limits - before)[rows, 0] / weights[rows, tokens]).ceil()
    dropped = rank >= kept
    weights[rows[dropped], tokens[dropped]] = 0
    return weights


def _limits(params: Items[SamplingParams], totals: torch.Tensor) -> torch.Tensor:
    """The weight before which top_p keeps tokens: (rows, 1), float64. `totals`: (rows, 1), int64, the weight that top_k left."""
    return totals.double() * _column([p.top_p for p in params], totals.device, torch.float64)


def _deepest_of_min_p(params: Items[SamplingParams], device: torch.device) -> torch.Tensor:
    """(rows, 1), float32."""
    return -_column([p.min_p for p in params], device, torch.float32).log()


def _column(values: Items[float], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """`values` as (len(values), 1), of `dtype` on `device`."""
    return torch.tensor(values, dtype=dtype)[:, None].to(device, non_blocking=True)
