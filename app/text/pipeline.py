"""The text of one choice: token ids in, one released piece of text per token out.

The pieces are a pure function of the tokens, of how they ended, of what the choice was made with (tokenizer, prompt, stop
strings, `min_tokens`) and of what was changed before which token (stop strings added, tokens steered): any split of the tokens
over calls gives the same, and so does a replay from the first token. A piece never changes once its token is in, and
"".join(pieces[a:b]) is what a reader gains from token `a` to token `b`.

Text that could yet turn out to be part of a stop string or of a character is held, and leaves with a later token. What is
held when a choice is cancelled or fails is never released.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from app.schema.frames import FinishReason, Message, ToolCallPiece
from app.schema.tokens import EngineFinish
from app.text.detokenizer import make_detokenizer
from app.text.stop import StopMatcher


class ChoiceText:
    """What one choice of a stream has said so far.

    `token_ids` and `pieces` are as long as each other. `finish_reason` and `stop_reason` (the stop string, or the id of the
    stop token) are None until the choice has ended by itself. `engine_finish` is the engine's ending if it came with the last
    of `token_ids`, None while there is none and where a stop string came earlier: pushing all `token_ids` with it into a new
    `ChoiceText` gives the same pieces and the same ending.

    `parsed`: the output has parts that are not text, see `app.text.parsed_text`; here it has none.
    """

    parsed = False
    reasoning_tokens = 0

    __slots__ = (
        "_detokenizer",
        "_matcher",
        "_min_tokens",
        "_push",
        "engine_finish",
        "finish_reason",
        "pieces",
        "stop_reason",
        "token_ids",
    )

    def __init__(
        self, tokenizer: Tokenizer, prompt_tail: Sequence[int], stops: Sequence[str] = (), min_tokens: int = 0
    ) -> None:
        """`prompt_tail`: the prompt or its last `PROMPT_TAIL_TOKENS` ids, which is all that is looked at."""
        self.token_ids: list[int] = []
        self.pieces: list[str] = []
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.engine_finish: EngineFinish | None = None
        self._min_tokens = min_tokens
        self._detokenizer = make_detokenizer(tokenizer, prompt_tail)
        self._push = self._detokenizer.push
        self._matcher = StopMatcher(stops)

    def push(
        self, token_ids: Sequence[int], finish: EngineFinish | None = None, stop_token: int | None = None
    ) -> None:
        """Takes the next tokens, and with the last of them how the engine ended.

        A stop string that is completed at token number `min_tokens` or later ends the choice: that token is kept, those
        after it and the engine's own ending are dropped. With `finish` "stop" the last token is the one that stopped the
        engine: it counts, its text does not leave. With "stop" and "length" the last token's piece takes what was held.
        With "error" nothing more is released and no reason is set. After the end calls do nothing.

        `finish` belongs to the last token. Given without tokens it releases what is held into the piece of the last token
        there is, or nowhere if there is none.
        """
        if self.finish_reason is not None:
            return
        if finish is None and not self._matcher.watching:
            self.token_ids += token_ids
            for token_id in token_ids:
                self.pieces.append(self._push(token_id))
            return
        last = len(token_ids) - 1 if finish in ("stop", "length") else -1
        for i, token_id in enumerate(token_ids):
            self.token_ids.append(token_id)
            text = "" if i == last and finish == "stop" else self._detokenizer.push(token_id)
            if i == last:
                self.engine_finish = finish
                self.pieces.append(self._last_piece(text))
            else:
                self.pieces.append(self._match(text))
            if self._matcher.matched is not None:
                return
        self.engine_finish = finish
        if finish == "stop" or finish == "length":
            if not token_ids and self.pieces:
                self.pieces[-1] += self._last_piece("")
            if self._matcher.matched is None:
                self.finish_reason, self.stop_reason = finish, stop_token

    def steer(self, token_ids: Sequence[int], *, ends: bool = False) -> None:
        """Takes steered tokens. No stop string is looked for in their text, or begins before it and ends after it.

        What was held for the sake of one leaves in front of it. `ends`: there is no room for more ("length").
        """
        if self.finish_reason is not None or not token_ids:
            return
        pieces = [self._detokenizer.push(token_id) for token_id in token_ids]
        pieces[0] = self._matcher.flush() + pieces[0]
        if ends:
            pieces[-1] += self._detokenizer.flush()
            self.engine_finish = self.finish_reason = "length"
        self.token_ids += token_ids
        self.pieces += pieces

    def add_stops(self, stops: Sequence[str]) -> None:
        """Adds stop strings; they are looked for in the text from the next token on."""
        self._matcher.add(stops)

    def text(self, start: int = 0, end: int | None = None) -> str:
        """The text from token `start` to before token `end`."""
        if end == start + 1:
            return self.pieces[start]
        return "".join(self.pieces[start:end])

    def piece_lengths(self, start: int, end: int) -> list[int]:
        """The lengths of some of the pieces, in characters."""
        return [len(piece) for piece in self.pieces[start:end]]

    @property
    def silent(self) -> bool:
        """Whether nothing left with the last token."""
        return not self.pieces[-1]

    def reasoning(self, start: int, end: int) -> str:
        """The reasoning from token `start` to before token `end`."""
        return ""

    def tool_call(self, start: int, end: int) -> ToolCallPiece | None:
        """What a tool call gained from token `start` to before token `end`, which `runs` gave."""
        return None

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The tokens from `start` to before `end` in runs whose parts are of one kind, as far as single tokens are."""
        yield start, end

    def message(self) -> Message | None:
        """All that was said, if it has parts."""
        return None

    def text_sha256(self) -> str:
        """The hash of the whole text as UTF-8, in hexadecimal. Reads all of it: meant for the end."""
        return hashlib.sha256("".join(self.pieces).encode()).hexdigest()

    def _match(self, text: str) -> str:
        """What of `text` and of the text held before may leave. Ends the choice on a stop string."""
        matcher = self._matcher
        released = matcher.push(text, armed=len(self.token_ids) >= self._min_tokens)
        if matcher.matched is not None:
            self.finish_reason, self.stop_reason = "stop", matcher.matched
        return released

    def _last_piece(self, text: str) -> str:
        """`text` and everything held, unless a stop string is completed by it."""
        released = self._match(text + self._detokenizer.flush())
        return released if self._matcher.matched is not None else released + self._matcher.flush()
