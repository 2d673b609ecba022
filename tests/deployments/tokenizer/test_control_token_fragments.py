"""Names of control tokens, their pieces and their near relatives, in any order: text, for each kind of tokenizer."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from deployments.tokenizer.prompt_encoder import PromptEncoder
from tests.deployments.tokenizer.test_control_tokens import KINDS, SPECIAL, chat, control_ids, encoder_of


def unigram_with_bytes() -> tokenizers.Tokenizer:
    """As SentencePiece makes them: every text has a spelling in bytes."""
    letters = sorted(set("".join(["abcdefghiklnorstuwxy<>/[]|_. \u2581END", *SPECIAL])) - {" "})
    pieces = [(name, 0.0) for name in SPECIAL]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    pieces += [(letter, -5.0) for letter in letters] + [
        (piece, -3.0) for piece in ("</", "s>", "<us", "er>", "[E")
    ]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def greedy_strips() -> tokenizers.Tokenizer:
    """Control tokens that take the white space around them, and one that is found as a whole word only."""
    [byte_level, *_] = KINDS
    tokenizer = byte_level()
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken("<pad>", lstrip=True, rstrip=True, special=True),
            tokenizers.AddedToken("END", single_word=True, special=True),
        ]
    )
    return tokenizer


NAMES = [*SPECIAL, "<late>", "<pad>", "END"]
PIECES = [name[begin:end] for name in NAMES for begin in range(3) for end in (2, 3, len(name) - 1, len(name))]
FRAGMENTS = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from([piece for piece in PIECES if piece]),
    st.sampled_from(
        [" ", "\n", "\u2581", "\u200b", "\u0301", "<0x3C>", "＜", "Ġ", "\U000f0000", "\U000f0001", "é", "狐"]
    ),
)
TEXTS = st.lists(FRAGMENTS, max_size=8).map("".join)


@pytest.fixture(
    scope="module", params=[*KINDS, unigram_with_bytes, greedy_strips], ids=lambda make: make.__name__
)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    make: Callable[[], tokenizers.Tokenizer] = request.param
    return encoder_of(tmp_path_factory.mktemp("model"), make())


@settings(max_examples=150, deadline=None)
@given(contents=st.lists(TEXTS, min_size=1, max_size=3))
def test_the_control_tokens_of_a_chat_are_those_of_its_template(
    encoder: PromptEncoder, contents: list[str]
) -> None:
    ids = encoder.encode(chat(*contents))
    plain = encoder.encode(chat(*("a" for _ in contents)))
    assert control_ids(encoder, ids) == control_ids(encoder, plain)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_text_without_a_name_has_the_ids_of_the_whole(encoder: PromptEncoder, text: str) -> None:
    normalized = unicodedata.normalize("NFKC", text).lower()
    assume(not any(name.lower() in normalized for name in NAMES))
    whole = encoder._template.render([{"role": "user", "content": text}], add_generation_prompt=True)
    assert encoder.encode(chat(text)) == encoder._plain.encode(whole, add_special_tokens=False).ids


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_a_piece_of_text_has_no_special_token(encoder: PromptEncoder, text: str) -> None:
    assert control_ids(encoder, encoder.encode_text(text)) == []
