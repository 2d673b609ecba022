"""Token ids to text, one token at a time.

What the detokenizers promise: `push` gives the text that a token completes and "" while it completes none; nothing is lost,
`flush` gives what is left; no id, however wrong, raises; what is held is bounded by `MAX_HELD_TOKENS`; the text depends on
the prompt and on the tokens and on nothing else. Special tokens and ids outside the vocabulary have no text. Other added
tokens have.

The text continues the prompt: it is what decoding prompt and answer together adds to the decoded prompt, as far as the last
`PROMPT_TAIL_TOKENS` of the prompt say, and those only back to its last special token, after which a new text begins. No
text of the prompt appears. A character that the prompt leaves incomplete appears when the answer completes it; otherwise
its beginning is dropped.

Of the answer, text in whole characters comes out as `Tokenizer.decode` of all tokens gives it. So do bytes that are not
UTF-8, but for one thing: where that turns good characters into replacement characters because bad bytes stand next to them,
as the decoders of byte fallback do, here the good ones stay.
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
        """What is still held, with replacement characters for incomplete ones. What is pushed after it begins a character."""
        ...


def make_detokenizer(tokenizer: Tokenizer, prompt: Sequence[int]) -> Detokenizer:
    """A detokenizer for an answer to `prompt`, of which the last `PROMPT_TAIL_TOKENS` ids are looked at."""
    vocabulary = vocabulary_of(tokenizer)
    newest_first = takewhile(lambda i: not vocabulary.is_special(i), reversed(prompt[-PROMPT_TAIL_TOKENS:]))
    tail = [token_id for token_id in newest_first if vocabulary.is_text(token_id)][::-1]
    return (ByteLevelDetokenizer if vocabulary.byte_level else StreamDetokenizer)(vocabulary, tail)


class ByteLevelDetokenizer:
    """For byte-level BPE, where a text is the bytes of its tokens in a row. Holds at most three bytes."""

    __slots__ = ("_characters", "_known", "_text_or_bytes")

    def __init__(self, vocabulary: Vocabulary, tail: Sequence[int]) -> None:
        self._text_or_bytes = vocabulary.text_or_bytes
        self._known = vocabulary.seen.get
        self._characters = _Characters([vocabulary.text_or_bytes(token_id) for token_id in tail], "replace")

    def push(self, token_id: int) -> str:
        piece = self._known(token_id)
        if piece is None:
            piece = self._text_or_bytes(token_id)
        if isinstance(piece, str) and not self._characters.pending:
            return piece
        return self._characters.push(_as_bytes(piece)) if piece else ""

    def flush(self) -> str:
        return self._characters.flush()


class StreamDetokenizer:
    """For every other tokenizer: the library's decode stream, which knows how its decoder works.

    The stream keeps the tokens of the last text that it gave out as context for the next. It has no end, refuses some
    sequences and can hold without bound; `_release` takes over in those cases by decoding what is held directly. Tokens that
    are bytes of a character go past the stream, which would hold all of them when one is bad.
    """

    __slots__ = ("_characters", "_context", "_held", "_step", "_tokenizer", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary, tail: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        self._tokenizer = vocabulary.tokenizer
        self._characters = _Characters([vocabulary.text_or_bytes(token_id) for token_id in tail], EACH_BYTE)
        self._held: list[int] = []
        self._restart([token_id for token_id in tail if isinstance(vocabulary.text_or_bytes(token_id), str)])
        if tail and not self._context:
            self._restart(vocabulary.plain_token)

    def push(self, token_id: int) -> str:
        piece = self._vocabulary.seen.get(token_id)
        if piece is None:
            piece = self._vocabulary.text_or_bytes(token_id)
        if not piece:
            return ""
        if isinstance(piece, bytes):
            before = self._release()
            if not self._context:
                # Something stands before the next token now, so it is not the first of a text any more.
                self._restart(self._vocabulary.plain_token)
            return before + self._characters.push(piece)
        if self._characters.pending:
            return self._characters.flush() + self._advance(token_id)
        return self._advance(token_id)

    def flush(self) -> str:
        return self._release() + self._characters.flush()

    def _advance(self, token_id: int) -> str:
        self._held.append(token_id)
        try:
            text = self._step(self._tokenizer, token_id)
        except Exception:  # The library raises no narrower type for "Invalid prefix encountered".
            return self._release()
        if text is not None:
            self._context, self._held = self._held, []
            return text
        return self._release() if len(self._held) >= MAX_HELD_TOKENS else ""

    def _release(self) -> str:
        """The text of all that is held, as good as it is. The stream starts again after it."""
        held, self._held = self._held, []
        if not held:
            return ""
        before, whole = self._decode(self._context), self._decode(self._context + held)
        alone = self._decode(held)
        self._restart(held if alone else self._context)
        return whole[len(before) :] if whole.startswith(before) else alone

    def _restart(self, context: list[int]) -> None:
        """Goes on after `context`, or after any plain token: a stream takes a text with a bad end for unfinished."""
        bad = self._decode(context).endswith(REPLACEMENT)
        self._context = self._vocabulary.plain_token if bad else context
        stream = DecodeStream(ids=self._context, skip_special_tokens=True)
        self._step: Callable[[Tokenizer, int], str | None] = stream.step

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text


class _Characters:
    """Joins bytes to characters. `errors` says how bad bytes are shown.

    Begins with what the prompt leaves incomplete. What that alone would show as replacement characters is never shown.
    """

    __slots__ = ("_borrowed", "_errors", "pending")

    def __init__(self, prompt: Sequence[str | bytes], errors: str) -> None:
        data = b"".join(_as_bytes(piece) for piece in prompt)
        self._errors = errors
        self.pending = data[codecs.utf_8_decode(data, errors, False)[1] :]
        self._borrowed = codecs.utf_8_decode(self.pending, errors, True)[0]

    def push(self, data: bytes) -> str:
        """The characters that are complete now, or that can't be any more."""
        return self._decode(data, final=False)

    def flush(self) -> str:
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, final: bool) -> str:
        data = self.pending + data
        text, consumed = codecs.utf_8_decode(data, self._errors, final)
        self.pending = data[consumed:]
        if text and self._borrowed:
            borrowed, self._borrowed = self._borrowed, ""
            if not data.startswith(REPLACEMENT.encode()):
                return text.removeprefix(borrowed)
        return text


def _as_bytes(piece: str | bytes) -> bytes:
    return piece.encode() if isinstance(piece, str) else piece


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """As the decoders of byte fallback show bad bytes. "replace" shows one character for a cut one."""
    assert isinstance(error, UnicodeDecodeError)
    return REPLACEMENT * (error.end - error.start), error.end


EACH_BYTE = "streaming_inference.replace_each_byte"
codecs.register_error(EACH_BYTE, _replace_each_byte)
