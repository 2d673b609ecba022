"""How often a sequence has each token, for the penalties."""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import torch

from app.schema.sampling import SamplingParams


class TokenCounts:
    """The distinct tokens of one sequence, and how often each was generated; those of the prompt alone count
    0.

    Kept up with one operation for each new token, so that no step looks at the history again.
    """

    __slots__ = ("_counts", "_places", "_tokens")

    def __init__(self, seen: Items[int], generated: Items[int]) -> None:
        self._places: dict[int, int] = {}
        self._tokens = np.zeros(64, dtype=np.int64)
        self._counts = np.zeros(64, dtype=np.float32)
        for token in seen:
            self._place(token)
        for token in generated:
            self.add(token)

    @classmethod
    def for_request(
        cls, sampling: SamplingParams, prompt: Items[int], generated: Items[int]
    ) -> TokenCounts | None:
        """The counts that `sampling` needs, None when it has no penalties."""
        if sampling.repetition_penalty != 1.0:
            return cls(prompt, generated)
        if sampling.presence_penalty or sampling.frequency_penalty:
            return cls((), generated)
        return None

    def __len__(self) -> int:
        return len(self._places)

    def add(self, token: int) -> None:
        """Counts one generated token."""
        place = self._place(token)
        self._counts[place] += 1

    @property
    def tokens(self) -> torch.Tensor:
        """The distinct tokens: (len(self),), int64."""
        return torch.from_numpy(self._tokens[: len(self._places)])

    @property
    def counts(self) -> torch.Tensor:
        """How often each of `tokens` was generated: (len(self),), float32."""
        return torch.from_numpy(self._counts[: len(self._places)])

    def _place(self, token: int) -> int:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._tokens[place] = token
        return place
