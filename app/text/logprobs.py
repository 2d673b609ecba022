"""Log probabilities as clients read them: with the text and the bytes of each token, in the shape of the OpenAI API."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from tokenizers import Tokenizer

from app.schema.frames import Logprob, TopLogprob
from app.schema.tokens import TokenLogprob
from app.text.vocabulary import vocabulary_of

LOWEST_LOGPROB = -9999.0
MAX_CACHED_TOKENS = 16384


class LogprobWriter:
    """Writes the log probabilities of one tokenizer's tokens. Make one per model; remembers the last tokens written.

    A token is written as it reads in the middle of a text, special tokens by their names. `bytes` are the token's own, so
    that a client can join those of several tokens to characters that no single one completes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = vocabulary_of(tokenizer)

        @functools.lru_cache(maxsize=MAX_CACHED_TOKENS)
        def spell(token_id: int) -> tuple[str, list[int]]:
            return vocabulary.token_text(token_id), list(vocabulary.token_bytes(token_id))

        self._spell = spell

    def write(self, token_id: int, logprob: TokenLogprob) -> Logprob:
        """One token and its alternatives. No value is below `LOWEST_LOGPROB`, because JSON has no infinity."""
        text, data = self._spell(token_id)
        alternatives = []
        for other, value in logprob.top:
            other_text, other_data = self._spell(other)
            alternatives.append(TopLogprob(other_text, max(value, LOWEST_LOGPROB), other_data))
        return Logprob(text, max(logprob.logprob, LOWEST_LOGPROB), data, alternatives)

    def write_all(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> list[Logprob]:
        """Those of consecutive tokens. Raises `ValueError` when there are not as many of one as of the other."""
        return [self.write(token_id, logprob) for token_id, logprob in zip(token_ids, logprobs, strict=True)]
