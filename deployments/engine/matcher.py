"""Follows the tokens of one choice through its grammar, and says which token may come next. This file imports no torch."""

from __future__ import annotations

from collections.abc import Sequence as Items

from llguidance import LLMatcher


class GrammarBroken(Exception):
    """A choice can't go on: its tokens don't fit its grammar, or what may follow is too hard to tell."""


class Matcher:
    """What it says is a function of the grammar and of the tokens alone, so that another engine goes on with the same.

    A client's tokens that the grammar does not allow end the constraint: what comes after them is free. One thread at a time.
    """

    def __init__(self, grammar: LLMatcher, starts_after: tuple[int, ...] = ()) -> None:
        self._grammar = grammar
        self._starts_after = starts_after
        self._restart()

    def mask(self, tokens: Items[int], steered: int) -> bytes | None:
        """The tokens that may follow `tokens`, which are all that were generated: a bit for each, the lowest first, and a rest
        without meaning. None when all may. Up to token number `steered` a client's may be among them.

        Cheap when few tokens have come since the last call. Raises `GrammarBroken`.
        """
        if len(tokens) < self._position:
            self._restart()
        for token in tokens[self._position :]:
            self._take(token, steered)
        if not self._has_started or self._is_over:
            return None
        mask = self._state.compute_bitmask()
        if self._state.is_error():
            raise GrammarBroken(self._state.get_error())
        return mask

    def _restart(self) -> None:
        self._state = self._grammar.deep_copy()
        self._position = 0
        self._has_started = not self._starts_after
        self._is_over = False
        self._latest: tuple[int, ...] = ()

    def _take(self, token: int, steered: int) -> None:
        self._position += 1
        if self._is_over:
            return
        if not self._has_started:
            self._latest = (*self._latest, token)[-len(self._starts_after) :]
            self._has_started = self._latest == self._starts_after
        elif not self._state.try_consume_tokens([token]):
            if self._state.is_error():
                raise GrammarBroken(self._state.get_error())
            if self._position > steered:
                raise GrammarBroken(f"token {token}, number {self._position}, is not allowed")
            self._is_over = True
