"""What single tokens stand for: their bytes, whether they are text at all, and how the tokenizer turns them into text.

One `Vocabulary` for each tokenizer, shared by all its streams and filled as tokens are seen, so it holds at most one entry
for each id of the tokenizer. It never raises for an id, however wrong: an id that is not in the vocabulary has no text.
"""

from __future__ import annotations

import functools
import re
from contextlib import suppress

from tokenizers import Tokenizer, decoders

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """The characters in which byte-level BPE writes the 256 bytes: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(0x100 + offset): byte for offset, byte in enumerate(others)})
    return alphabet


_ALPHABET = _byte_level_alphabet()


class Vocabulary:
    """The tokens of one tokenizer. Use `vocabulary_of`, which makes one per tokenizer.

    `seen` holds what `text_or_bytes` has said so far, for those to whom a dictionary's speed matters.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        added = tokenizer.get_added_tokens_decoder()
        decoder = tokenizer.decoder
        self.tokenizer = tokenizer
        self.byte_level = isinstance(decoder, decoders.ByteLevel)
        self._byte_fallback = decoder is not None and b'"ByteFallback"' in decoder.__getstate__()
        self._special = frozenset(token.content for token in added.values() if token.special)
        self._added = frozenset(token.content for token in added.values())
        self.seen: dict[int, str | bytes] = {}

    def content(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it; None for what is no id of it, whatever its type."""
        try:
            return self.tokenizer.id_to_token(token_id)
        except (OverflowError, TypeError):
            return None

    def is_special(self, token_id: int) -> bool:
        return self.content(token_id) in self._special

    def is_text(self, token_id: int) -> bool:
        """Whether the token is in the vocabulary and not special."""
        return self.text_or_bytes(token_id) != ""

    def text_or_bytes(self, token_id: int) -> str | bytes:
        """The token as part of a text: str where it is whole characters, bytes where it cuts one, "" where it is no text.

        The str of a token that is not of a byte-level tokenizer only says that there is one: its text depends on its place.
        """
        cached = self.seen.get(token_id)
        if cached is not None:
            return cached
        content = self.content(token_id)
        if content is None:
            return ""
        data = b"" if content in self._special else self._spelled_bytes(content)
        piece: str | bytes = data
        with suppress(UnicodeDecodeError):
            piece = data.decode()
        self.seen[token_id] = piece
        return piece

    @functools.cached_property
    def plain_token(self) -> list[int]:
        """One token that is a word or a letter and nothing peculiar, to stand for "some text"; empty if there is none."""
        for token_id in range(self.tokenizer.get_vocab_size()):
            text = self.tokenizer.decode([token_id]) if self.is_text(token_id) else ""
            if text.isascii() and text.isalpha():
                return [token_id]
        return []

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token stands for, special tokens included as they are written."""
        content = self.content(token_id)
        if content is None:
            return b""
        if self.byte_level or self._is_byte(content):
            return self._spelled_bytes(content)
        return self.token_text(token_id).encode()

    def token_text(self, token_id: int) -> str:
        """The token in the middle of a text, special tokens included; U+FFFD where its bytes are not whole characters."""
        content = self.content(token_id)
        if content is None:
            return ""
        if content in self._special:
            return content
        if self.byte_level:
            return self._spelled_bytes(content).decode("utf-8", "replace")
        # The second of two is the token as it reads after another: with the space that a decoder strips at the start.
        once = self.tokenizer.decode([token_id], skip_special_tokens=False)
        twice = self.tokenizer.decode([token_id, token_id], skip_special_tokens=False)
        return twice[len(once) :] if twice.startswith(once) and len(twice) > len(once) else once

    def _is_byte(self, content: str) -> bool:
        return (
            self._byte_fallback and content not in self._added and _BYTE_TOKEN.fullmatch(content) is not None
        )

    def _spelled_bytes(self, content: str) -> bytes:
        if self._is_byte(content):
            return bytes([int(content[3:5], 16)])
        if self.byte_level and content not in self._added and all(char in _ALPHABET for char in content):
            return bytes(_ALPHABET[char] for char in content)
        return content.encode()


@functools.lru_cache(maxsize=16)
def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The vocabulary of this tokenizer, which must not change any more. Those of the last 16 tokenizers are kept."""
    return Vocabulary(tokenizer)
