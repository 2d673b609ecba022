"""Token ids to text, one token at a time.

What the detokenizers promise: `push` gives the text that a token completes and "" while it completes none; nothing is lost,
`flush` gives what is left; no id, however wrong, raises; what is held is bounded by `MAX_HELD_TOKENS`; the text depends on
the prompt and on the tokens and on nothing else. Special tokens and ids outside the vocabulary have no text. Other added
tokens have.

The text continues the prompt: it is what decoding prompt and answer together adds to the decoded prompt, as far as the last
`PROMPT_TAIL_TOKENS` of the prompt say, and those only back to its last special token, behind which a new text begins. No
text of the prompt appears. A character that the prompt leaves incomplete appears when the answer completes it; otherwise
its beginning is dropped.

Of the answer, text in whole characters comes out as `Tokenizer.decode` of all tokens gives it. For bytes that are not UTF-8
the byte-level detokenizer still equals it. The general one may show other replacement characters than decoding everything at
once does, because some decoders then take back characters that have already left: each run of bad bytes is shown as it
decodes by itself, at the latest after `MAX_HELD_TOKENS`.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from app.text.vocabulary import REPLACEMENT, Vocabulary, vocabulary_of

PROMPT_TAIL_TOKENS = 8
MAX_HELD_TOKENS = 8


class Detokenizer(Protocol):
    def push(self, token_id: int) -> str:
        """The text that this token completes, "" when it completes none."""
        ...

    def flush(self) -> str:
        """What is still held, with replacement characters for incomplete ones. Nothing may be pushed after it."""
        ...


def make_detokenizer(tokenizer: Tokenizer, prompt: Sequence[int]) -> Detokenizer:
    """A detokenizer for an answer to `prompt`, of which the last `PROMPT_TAIL_TOKENS` ids are looked at."""
    vocabulary = vocabulary_of(tokenizer)
    newest_first = takewhile(lambda i: not vocabulary.is_special(i), reversed(prompt[-PROMPT_TAIL_TOKENS:]))
    tail = [token_id for token_id in newest_first if vocabulary.is_text(token_id)][::-1]
    if vocabulary.byte_level:
        return ByteLevelDetokenizer(vocabulary, tail)
    return StreamDetokenizer(vocabulary, tail)


class ByteLevelDetokenizer:
    """For byte-level BPE, where a text is the bytes of its tokens in a row. Holds at most three bytes."""

    __slots__ = ("_borrowed", "_pending", "_text_or_bytes")

    def __init__(self, vocabulary: Vocabulary, tail: Sequence[int]) -> None:
        data = b"".join(_as_bytes(vocabulary.text_or_bytes(token_id)) for token_id in tail)
        self._text_or_bytes = vocabulary.text_or_bytes
        self._pending = data[codecs.utf_8_decode(data, "replace", False)[1] :]
        self._borrowed = bool(self._pending)  # the pending bytes begin in the prompt

    def push(self, token_id: int) -> str:
        piece = self._text_or_bytes(token_id)
        if not self._pending and piece.__class__ is str:
            return piece
        return self._decode(_as_bytes(piece), final=False) if piece else ""

    def flush(self) -> str:
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, final: bool) -> str:
        data = self._pending + data
        text, consumed = codecs.utf_8_decode(data, "replace", final)
        self._pending = data[consumed:]
        if text and self._borrowed:
            self._borrowed = False
            if text[0] == REPLACEMENT and not data.startswith(REPLACEMENT.encode()):
                return text[1:]
        return text


class StreamDetokenizer:
    """For every other tokenizer: the library's decode stream, which knows how its decoder works.

    The stream keeps the tokens of the last text that it gave out as context for the next. It has no end, refuses some
    sequences and can hold without bound; `_release` takes over in those cases by decoding what is held directly.
    """

    __slots__ = ("_borrowed", "_context", "_held", "_step", "_tokenizer", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary, tail: list[int]) -> None:
        self._vocabulary = vocabulary
        self._tokenizer = vocabulary.tokenizer
        split = _start_of_incomplete(vocabulary, tail)
        self._borrowed = tail[split:]  # tokens of the prompt that begin a character
        self._held: list[int] = []
        self._restart(tail[:split])

    def push(self, token_id: int) -> str:
        if not self._vocabulary.text_or_bytes(token_id):
            return ""
        self._held.append(token_id)
        if self._borrowed:
            return self._complete_borrowed()
        return self._advance(token_id)

    def flush(self) -> str:
        return self._release() if self._held else ""

    def _advance(self, token_id: int) -> str:
        try:
            text = self._step(self._tokenizer, token_id)
        except Exception:  # The library raises no narrower type for "Invalid prefix encountered".
            return self._release()
        if text is not None:
            self._context, self._held = self._held, []
            return text
        return self._release() if len(self._held) >= MAX_HELD_TOKENS else ""

    def _release(self) -> str:
        """The text of all that is held, as good as it is. The stream starts anew behind it."""
        context, held = self._context, self._held
        before, whole, alone = self._decode(context), self._decode(context + held), self._decode(held)
        self._held = []
        self._restart(context if not alone or alone.endswith(REPLACEMENT) else held)
        return whole[len(before) :] if whole.startswith(before) else alone

    def _restart(self, context: list[int]) -> None:
        """Continues behind `context`, or behind nothing if the stream could not tell its text from what follows."""
        self._context = [] if self._decode(context).endswith(REPLACEMENT) else context
        stream = DecodeStream(ids=self._context, skip_special_tokens=True)
        self._step: Callable[[Tokenizer, int], str | None] = stream.step

    def _complete_borrowed(self) -> str:
        """Waits until the character that the prompt began is complete, or can't be any more."""
        borrowed, held = self._borrowed, self._held
        data = b"".join(_as_bytes(self._vocabulary.text_or_bytes(token_id)) for token_id in borrowed + held)
        try:
            text, consumed = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError:
            self._borrowed, self._held = [], []
            return "".join([self.push(token_id) for token_id in held])
        if not consumed:
            return ""
        self._borrowed, self._held = [], []
        self._restart(borrowed + held)
        return text

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text


def _as_bytes(piece: str | bytes) -> bytes:
    return piece.encode() if isinstance(piece, str) else piece


def _start_of_incomplete(vocabulary: Vocabulary, token_ids: list[int]) -> int:
    """Where the tokens begin that together are the beginning of one character; the length if there are none."""
    data = b""
    for start in range(len(token_ids) - 1, -1, -1):
        piece = vocabulary.text_or_bytes(token_ids[start])
        if isinstance(piece, str):
            break
        data = piece + data
        if data[0] >= 0xC0:
            try:
                return start if not codecs.utf_8_decode(data, "strict", False)[1] else len(token_ids)
            except UnicodeDecodeError:
                break
    return len(token_ids)
