"""One choice of a stream: its tokens and their text, the log probabilities if asked for, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.schema.frames import FinishReason, Logprob
from app.schema.tokens import TokenBatch, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.text.pipeline import ChoiceText


class Choice:
    """Grows by the batches that a generator sends. `logprobs` runs parallel to `token_ids` when the request asks for them.

    `silent_end`: it has ended by itself, with a token that has no text.
    """

    def __init__(
        self,
        text: ChoiceText,
        write_logprobs: Callable[[Sequence[int], Sequence[TokenLogprob]], list[Logprob]],
    ) -> None:
        self.token_ids = text.token_ids
        self.text = text.text
        self.text_sha256 = text.text_sha256
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.silent_end = False
        self._text = text
        self._write_logprobs = write_logprobs
        self._stop_token: int | None = None

    @property
    def engine_finished(self) -> bool:
        """Whether the engine's own ending belongs to the last token: false too where a stop string came before it."""
        return self._text.engine_finish is not None

    def push(self, batch: TokenBatch, known: int) -> bool:
        """Takes the tokens of `batch` but for the first `known`, which are here already. Whether the choice has ended."""
        text = self._text
        before = len(text.pieces)
        text.push(batch.token_ids[known:] if known else batch.token_ids, batch.finish, batch.stop_token)
        if batch.logprobs is not None:
            fresh = len(self.token_ids) - len(self.logprobs)
            self.logprobs.extend(batch.logprobs[known : known + fresh])
        if text.finish_reason is None:
            return False
        self.finish_reason = text.finish_reason
        self.stop_reason = text.stop_reason
        self.silent_end = len(text.pieces) > before and not text.pieces[-1]
        self._stop_token = batch.stop_token
        return True

    def written_logprobs(self, begin: int, end: int) -> list[Logprob]:
        """The log probabilities of some of the tokens, as clients read them."""
        return self._write_logprobs(self.token_ids[begin:end], self.logprobs[begin:end])

    def end(self, finish_reason: FinishReason) -> None:
        """Ends the choice from outside, unless it has ended by itself."""
        if self.finish_reason is None:
            self.finish_reason = finish_reason

    def behind(self, index: int, count: int) -> TokenBatch:
        """What lies behind the first `count` tokens, as a batch that gives the same text when it is pushed elsewhere."""
        return TokenBatch(
            0,
            index,
            count,
            self.token_ids[count:],
            self._text.engine_finish,
            self._stop_token,
            self.logprobs[count:] if self.logprobs else None,
        )
