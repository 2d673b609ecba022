"""How often a sequence has each token, for the penalties."""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import torch

from app.schema.sampling import SamplingParams


class TokenCounts:
    """The distinct tokens of one sequence, and how often each was generated; those of the prompt alone count
    0.

    Kept up with one operation for each new token, so that no step looks at the history again. A long prompt is taken as a whole:
    a loop over 32,000 tokens would hold up all streams for 7 ms.
    """

    __slots__ = ("_added", "_counts", "_first", "_size", "_tokens")

    def __init__(self, seen: Items[int], generated: Items[int]) -> None:
        tokens = np.asarray([*seen, *generated], dtype=np.int64)
        self._first = np.unique(tokens)
        """The tokens that are known from the start, in ascending order. They stand first in `_tokens`."""
        self._added: dict[int, int] = {}
        """The places of the others."""
        self._size = len(self._first)
        self._tokens = np.concatenate([self._first, np.zeros(64, dtype=np.int64)])
        self._counts = np.zeros(len(self._tokens), dtype=np.float32)
        places = np.searchsorted(self._first, tokens[len(seen) :])
        self._counts[: self._size] = np.bincount(places, minlength=self._size)

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
        return self._size

    def copy(self) -> TokenCounts:
        """These counts as they are now."""
        copied = TokenCounts.__new__(TokenCounts)
        copied._first, copied._size = self._first, self._size
        copied._added = self._added.copy()
        copied._tokens, copied._counts = self._tokens.copy(), self._counts.copy()
        return copied

    def add(self, token: int) -> None:
        """Counts one generated token."""
        place = self._place(token)  # first, for it may replace the arrays
        self._counts[place] += 1

    @property
    def tokens(self) -> torch.Tensor:
        """The distinct tokens: (len(self),), int64."""
        return torch.from_numpy(self._tokens[: self._size])

    @property
    def counts(self) -> torch.Tensor:
        """How often each of `tokens` was generated: (len(self),), float32."""
        return torch.from_numpy(self._counts[: self._size])

    def _place(self, token: int) -> int:
        place = int(np.searchsorted(self._first, token))
        if place < len(self._first) and self._first[place] == token:
            return place
        place = self._added.setdefault(token, self._size)
        if place == self._size:
            if place == len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._tokens[place] = token
            self._size += 1
        return place
