"""The grammars of an engine: constraints, compiled for its vocabulary. This file imports no torch."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from threading import Lock

from llguidance import LLMatcher, LLTokenizer

from app.errors import InvalidRequest
from app.schema.constraint import Constraint
from deployments.engine.matcher import Matcher
from deployments.grammar.compiler import (
    InvalidGrammar,
    UnsupportedTokenizer,
    compile_grammar,
    read_vocabulary,
)

logger = logging.getLogger(__name__)

MAX_GRAMMARS = 64
"""How many are kept that have been used last. A large one takes some 10 MB."""


class Grammars:
    """Safe to call from several threads."""

    def __init__(self, vocabulary: LLTokenizer) -> None:
        self._vocabulary = vocabulary
        self._compiled: OrderedDict[bytes, LLMatcher] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def of_tokenizer(
        cls, tokenizer_json: str | None, vocab_size: int, end_ids: frozenset[int]
    ) -> Grammars | None:
        """None for a model that can have no structured output; the log says why."""
        if tokenizer_json is None:
            return None
        try:
            return cls(read_vocabulary(tokenizer_json, vocab_size, end_ids))
        except UnsupportedTokenizer as error:
            logger.warning("the engine has no structured output: %s", error)
            return None

    def prepare(self, constraint: Constraint) -> None:
        """Has the grammar ready for `matcher`. May take seconds of a core, but leaves the GIL to others.

        Raises `InvalidRequest`.
        """
        self._grammar(constraint)

    def matcher(self, constraint: Constraint) -> Matcher:
        """A matcher at the beginning of an answer. At once if the grammar is ready; raises `InvalidRequest`."""
        return Matcher(self._grammar(constraint), constraint.starts_after)

    def _grammar(self, constraint: Constraint) -> LLMatcher:
        key = hashlib.sha256(f"{constraint.kind} {constraint.text}".encode()).digest()
        with self._lock:
            compiled = self._compiled.get(key)
            if compiled is not None:
                self._compiled.move_to_end(key)
                return compiled
        try:
            compiled = compile_grammar(self._vocabulary, constraint)
        except InvalidGrammar as error:
            raise InvalidRequest(f"The grammar can't be honoured. {error}", param=constraint.param) from error
        with self._lock:
            self._compiled[key] = compiled
            if len(self._compiled) > MAX_GRAMMARS:
                self._compiled.popitem(last=False)
        return compiled
