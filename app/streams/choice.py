"""One choice of a stream: its tokens and their text, the log probabilities if asked for, what was changed, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.schema.frames import FinishReason, Logprob
from app.schema.tokens import Edit, TokenBatch, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from app.text.pipeline import ChoiceText


class Choice:
    """Grows by the batches that a generator sends. `logprobs` runs parallel to `token_ids` when the request asks for them.

    `edits` are the changes that took effect, in their order. `silent_end`: it has ended by itself, with a token that has no text.
    """

    def __init__(
        self,
        text: ChoiceText,
        write_logprobs: Callable[[Sequence[int], Sequence[TokenLogprob]], list[Logprob]],
    ) -> None:
        self.token_ids = text.token_ids
        self.text = text.text
        self.text_sha256 = text.text_sha256
        self.piece_lengths = text.piece_lengths
        self.parsed = text.parsed
        self.reasoning = text.reasoning
        self.tool_call = text.tool_call
        self.message = text.message
        self.logprobs: list[TokenLogprob] = []
        self.edits: list[Edit] = []
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

    @property
    def steered(self) -> int:
        """The end of the last steered tokens; 0 without any."""
        return max((edit.end for edit in self.edits if edit.steered), default=0)

    def push(self, batch: TokenBatch, known: int) -> bool:
        """Takes the tokens of `batch` but for the first `known`, which are here already. Whether the choice has ended."""
        text = self._text
        before = len(text.pieces)
        if batch.edits is None:
            text.push(batch.token_ids[known:] if known else batch.token_ids, batch.finish, batch.stop_token)
        else:
            self._push_edited(batch, batch.edits)
        if batch.logprobs is not None:
            fresh = len(self.token_ids) - len(self.logprobs)
            self.logprobs.extend(batch.logprobs[known : known + fresh])
        if text.finish_reason is None:
            return False
        self.finish_reason = text.finish_reason
        self.stop_reason = text.stop_reason
        self.silent_end = len(text.pieces) > before and text.silent
        self._stop_token = batch.stop_token
        return True

    def contradicts(self, batch: TokenBatch) -> bool:
        """Whether `batch` has a change that would have had to take effect before tokens that are here already."""
        at = len(self.token_ids)
        return any(edit.position < at and not self.has(edit.id) for edit in batch.edits or ())

    def has(self, change: str) -> bool:
        """Whether the change of this id has taken effect."""
        return any(edit.id == change for edit in self.edits)

    def add_stops(self, change: str, stops: Sequence[str]) -> None:
        """Adds stop strings, which are looked for in what comes from now on, unless the choice has ended."""
        if self.finish_reason is None:
            self._take(Edit(id=change, position=len(self.token_ids), stops=list(stops)))

    @property
    def reasoning_tokens(self) -> int:
        return self._text.reasoning_tokens

    def runs(self, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The tokens from `begin` to before `end` in runs that are a delta each, with whether it was steered."""
        for first, last, steered in self.steered_runs(begin, end):
            for start, stop in self._text.runs(first, last):
                yield start, stop, steered

    def steered_runs(self, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The tokens from `begin` to before `end` in parts, each with whether it was steered."""
        for edit in self.edits:
            if edit.steered and begin < edit.end and edit.position < end:
                if begin < edit.position:
                    yield begin, edit.position, False
                    begin = edit.position
                yield begin, min(edit.end, end), True
                begin = min(edit.end, end)
        if begin < end:
            yield begin, end, False

    def written_logprobs(self, begin: int, end: int) -> list[Logprob]:
        """The log probabilities of some of the tokens, as clients read them."""
        return self._write_logprobs(self.token_ids[begin:end], self.logprobs[begin:end])

    def end(self, finish_reason: FinishReason) -> None:
        """Ends the choice from outside, unless it has ended by itself."""
        if self.finish_reason is None:
            self.finish_reason = finish_reason

    def after(self, index: int, count: int, edits: int = 0) -> TokenBatch:
        """All after the first `count` tokens and the first `edits` edits, as a batch that gives the same text elsewhere."""
        return TokenBatch(
            0,
            index,
            count,
            self.token_ids[count:],
            self._text.engine_finish,
            self._stop_token,
            self.logprobs[count:] if self.logprobs else None,
            None,
            (self.edits[edits:] or None) if self.edits else None,
        )

    def _push_edited(self, batch: TokenBatch, edits: Sequence[Edit]) -> None:
        """Takes what is new of a batch in which changes took effect."""
        for edit in edits:
            self._push_until(batch, edit.position)
            if not self.has(edit.id) and self._text.finish_reason is None:
                self._take(edit)
            begin, stop = len(self.token_ids) - batch.position, edit.end - batch.position
            if begin < stop:
                ends = batch.finish == "length" and stop == len(batch.token_ids)
                self._text.steer(batch.token_ids[begin:stop], ends=ends)
        self._push_until(batch, None)

    def _push_until(self, batch: TokenBatch, end: int | None) -> None:
        """Takes what the model made before token number `end`; to the end, and how it ended, if that is None."""
        begin = len(self.token_ids) - batch.position
        if end is not None:
            if begin < end - batch.position:
                self._text.push(batch.token_ids[begin : end - batch.position])
        elif self._text.finish_reason is None:
            self._text.push(batch.token_ids[begin:], batch.finish, batch.stop_token)

    def _take(self, edit: Edit) -> None:
        self.edits.append(edit)
        if edit.stops:
            self._text.add_stops(edit.stops)
