"""One choice of a stream: its tokens and their text, the log probabilities if asked for, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.schema.frames import FinishReason, Logprob

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.schema.tokens import TokenBatch, TokenLogprob
    from app.text.pipeline import ChoiceText


class Choice:
    """Grows by the batches that a generator sends. `logprobs` runs parallel to `token_ids` when the request asks for them."""

    def __init__(self, text: ChoiceText, write_logprob: Callable[[int, TokenLogprob], Logprob]) -> None:
        self.token_ids = text.token_ids
        self.text = text.text
        self.text_sha256 = text.text_sha256
        self.logprobs: list[Logprob] = []
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self._text = text
        self._write_logprob = write_logprob

    def push(self, batch: TokenBatch, known: int) -> bool:
        """Takes the tokens of `batch` but for the first `known`, which are here already. Whether the choice has ended."""
        text = self._text
        text.push(batch.token_ids[known:] if known else batch.token_ids, batch.finish, batch.stop_token)
        if batch.logprobs is not None:
            self._push_logprobs(batch, known)
        if text.finish_reason is None:
            return False
        self.finish_reason = text.finish_reason
        self.stop_reason = text.stop_reason
        return True

    def end(self, finish_reason: FinishReason) -> None:
        """Ends the choice from outside, unless it has ended by itself."""
        if self.finish_reason is None:
            self.finish_reason = finish_reason

    def _push_logprobs(self, batch: TokenBatch, known: int) -> None:
        kept = len(self.token_ids) - len(self.logprobs)
        fresh = zip(batch.token_ids[known:], (batch.logprobs or [])[known:], strict=True)
        for _, (token_id, logprob) in zip(range(kept), fresh, strict=False):
            self.logprobs.append(self._write_logprob(token_id, logprob))
