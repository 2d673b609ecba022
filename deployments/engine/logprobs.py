"""Log probabilities of the sampled tokens and of their likeliest alternatives, under the raw logits of the
model.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch

from app.schema.tokens import TokenLogprob
from deployments.engine.sampled_sequence import SampledSequence


class LogprobReport:
    """Made from the logits before they are changed; read when the tokens are known. Costs nothing for rows that
    don't ask for log probabilities.
    """

    def __init__(self, logits: torch.Tensor, sequences: Items[SampledSequence]) -> None:
        """`logits`: (rows, vocab_size), row i for the next token of `sequences[i]`."""
        asking = [
            (row, s.sampling.logprobs) for row, s in enumerate(sequences) if s.sampling.logprobs is not None
        ]
        self._rows = [row for row, _ in asking]
        self._counts = [count for _, count in asking]
        if asking:
            self._logprobs = logits[self._rows].log_softmax(dim=-1)

    def read(self, tokens: list[int]) -> dict[int, TokenLogprob]:
        """For each row that asked, the report on the token that it got. `tokens` has one for every row."""
        if not self._rows:
            return {}
        chosen = torch.tensor([[tokens[row]] for row in self._rows]).to(self._logprobs.device)
        own = self._logprobs.gather(1, chosen)[:, 0].tolist()
        most = min(max(self._counts), self._logprobs.shape[1])
        ids = _likeliest(self._logprobs, most)
        values = self._logprobs.gather(1, ids)
        reports = {}
        for row, count, logprob, ids_row, values_row in zip(
            self._rows, self._counts, own, ids.tolist(), values.tolist(), strict=True
        ):
            top = list(zip(ids_row, values_row, strict=True))
            reports[row] = TokenLogprob(logprob, top[:count])
        return reports


def _likeliest(logprobs: torch.Tensor, count: int) -> torch.Tensor:
    """The likeliest tokens of each row in descending order, equal ones by token id: (rows, count), int64.

    `logprobs`: (rows, vocab_size), float32, none above 0. topk alone leaves open which of several equal ones it takes; so it
    orders whole numbers, of the bits of a value above those of its token id.
    """
    ids = torch.arange(logprobs.shape[1], device=logprobs.device)
    order = (logprobs.abs().view(torch.int32).long() << 32) | ids
    return order.topk(count, dim=-1, largest=False).values & 0xFFFFFFFF
