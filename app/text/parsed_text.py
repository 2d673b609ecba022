"""The text of one choice whose output is parsed: content, reasoning and tool calls, each with the token that released it.

As in `app.text.pipeline`, all of it is a pure function of the tokens and of what the choice was made with, the ids of the calls
included. Stop strings are looked for in the content only.

A token releases pieces of one tool call at most: those of the next call leave with the next token. What the last token leaves
over, because there is no next, is only in `message`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tokenizers import Tokenizer

from app.schema.frames import Message, ToolCall, ToolCallPiece
from app.schema.tokens import EngineFinish
from app.text.pipeline import ChoiceText

if TYPE_CHECKING:
    from app.text.output_parser import OutputParser, Part


class _Call(NamedTuple):
    id: str
    name: str
    arguments: list[str]


class ParsedText(ChoiceText):
    """`marks`: the special tokens that mean something to the parser, and their names. `name` is unique to the choice.

    Without `shows_reasoning` the reasoning does not leave, but is counted. A token counts as reasoning when the output was in its
    reasoning before it.
    """

    __slots__ = (
        "_call_pieces",
        "_calls",
        "_deferred",
        "_marks",
        "_name",
        "_parser",
        "_reasoning_pieces",
        "_shows_reasoning",
        "reasoning_tokens",
    )

    parsed = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_tail: Sequence[int],
        stops: Sequence[str] = (),
        min_tokens: int = 0,
        *,
        parser: OutputParser,
        marks: Mapping[int, str],
        name: str,
        shows_reasoning: bool = True,
    ) -> None:
        super().__init__(tokenizer, prompt_tail, stops, min_tokens)
        self.reasoning_tokens = 0
        self._parser = parser
        self._marks = marks
        self._name = name
        self._shows_reasoning = shows_reasoning
        # By the number of the token that released them.
        self._reasoning_pieces: dict[int, str] = {}
        self._call_pieces: dict[int, ToolCallPiece] = {}
        self._calls: list[_Call] = []
        self._deferred: list[Part] = []

    def push(
        self, token_ids: Sequence[int], finish: EngineFinish | None = None, stop_token: int | None = None
    ) -> None:
        if self.finish_reason is not None:
            return
        ends = finish == "stop" or finish == "length"
        for i, token_id in enumerate(token_ids):
            last = ends and i == len(token_ids) - 1
            self._begin(token_id)
            self._take(self._parser.push("" if last and finish == "stop" else self._spelled(token_id)))
            if last and self._matcher.matched is None:
                self._finish(cut=finish == "length")
                self.engine_finish = finish
            if self._matcher.matched is not None:
                return
        self.engine_finish = finish
        if finish == "stop" or finish == "length":
            if not token_ids and self.pieces:
                self._finish(cut=finish == "length")
            if self._matcher.matched is None:
                self.finish_reason, self.stop_reason = finish, stop_token

    def steer(self, token_ids: Sequence[int], *, ends: bool = False) -> None:
        if self.finish_reason is not None or not token_ids:
            return
        for token_id in token_ids:
            self._begin(token_id)
            self.pieces[-1] += self._matcher.flush()
            self._take(self._parser.push(self._spelled(token_id)), steered=True)
        if ends:
            self._finish(cut=True, steered=True)
            self.engine_finish = self.finish_reason = "length"

    @property
    def silent(self) -> bool:
        last = len(self.pieces) - 1
        return not (self.pieces[last] or last in self._reasoning_pieces or last in self._call_pieces)

    def reasoning(self, start: int, end: int) -> str:
        pieces = self._reasoning_pieces
        return "".join(pieces[i] for i in range(start, end) if i in pieces) if pieces else ""

    def tool_call(self, start: int, end: int) -> ToolCallPiece | None:
        pieces = [self._call_pieces[i] for i in range(start, end) if i in self._call_pieces]
        if not pieces:
            return None
        first = pieces[0]
        return ToolCallPiece(first.index, first.id, first.name, "".join(piece.arguments for piece in pieces))

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        kinds = None
        for i in range(start, end):
            call = self._call_pieces.get(i)
            said = bool(self.pieces[i]), i in self._reasoning_pieces, -1 if call is None else call.index
            if said == (False, False, -1):
                continue
            if kinds is not None and said != kinds:
                yield start, i
                start = i
            kinds = said
        yield start, end

    def message(self) -> Message:
        calls = [ToolCall(call.id, call.name, "".join(call.arguments)) for call in self._calls]
        return Message(self.text(), "".join(self._reasoning_pieces.values()), calls)

    def _begin(self, token_id: int) -> None:
        self.token_ids.append(token_id)
        self.pieces.append("")
        self.reasoning_tokens += self._parser.in_reasoning
        self._settle()

    def _spelled(self, token_id: int) -> str:
        """The text that a token completes. The parser sees the special tokens that it knows; readers don't."""
        mark = self._marks.get(token_id)
        return self._push(token_id) if mark is None else self._detokenizer.flush() + mark

    def _finish(self, *, cut: bool, steered: bool = False) -> None:
        """Releases what is held into the last token's piece, unless a stop string is completed by it."""
        self._take(self._parser.push(self._detokenizer.flush()), steered=steered)
        if self._matcher.matched is None:
            self._take(self._parser.finish(cut=cut), steered=steered)
        if self._matcher.matched is None:
            self.pieces[-1] += self._matcher.flush()

    def _take(self, parts: Sequence[Part], *, steered: bool = False) -> None:
        """Gives the parts to the last token, up to a stop string."""
        for part in parts:
            if part.kind == "content":
                self.pieces[-1] += part.text if steered else self._match(part.text)
                if self._matcher.matched is not None:
                    break
                continue
            # No stop string begins before a part and ends after it.
            self.pieces[-1] += self._matcher.flush()
            if part.kind == "reasoning" and self._shows_reasoning:
                last = len(self.pieces) - 1
                self._reasoning_pieces[last] = self._reasoning_pieces.get(last, "") + part.text
            elif part.kind == "call":
                if part.call == len(self._calls):
                    digest = hashlib.sha256(f"{self._name}:{part.call}".encode()).hexdigest()
                    self._calls.append(_Call(f"call_{digest[:24]}", part.name, []))
                self._calls[part.call].arguments.append(part.text)
                self._deferred.append(part)
        self._settle()

    def _settle(self) -> None:
        """Gives the last token what it may take of the pieces of calls."""
        last = len(self.pieces) - 1
        while self._deferred:
            part, piece = self._deferred[0], self._call_pieces.get(last)
            if piece is not None and piece.index != part.call:
                return
            call = self._calls[part.call]
            arguments = (piece.arguments if piece is not None else "") + part.text
            self._call_pieces[last] = ToolCallPiece(part.call, call.id, call.name, arguments)
            self._deferred.pop(0)
