from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from app.text.detokenizer import (
    MAX_HELD_TOKENS,
    PROMPT_TAIL_TOKENS,
    ByteLevelDetokenizer,
    StreamDetokenizer,
    make_detokenizer,
)
from app.text.vocabulary import REPLACEMENT, vocabulary_of

WORDS = [
    "fox ",
    "the",
    " harbor",
    "🎉",
    "👩‍👩‍👧",
    "你好",
    "日本",
    "café",
    "Привет",
    " ",
    "\n",
    "é",
    "ž",
    "語",
    "𝄞",
    "\ufffd",
]
texts = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
sequences = st.lists(st.integers(0, 430), max_size=40)


def pieces_of(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = make_detokenizer(tokenizer, prompt or [])
    return [detokenizer.push(token_id) for token_id in ids] + [detokenizer.flush()]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def vocab_id(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    assert token_id is not None, token
    return int(token_id)


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """One token for each byte, in a tokenizer with byte fallback."""
    return [vocab_id(tokenizer, f"<0x{byte:02X}>") for byte in data]


def test_the_byte_level_kind_is_chosen_by_the_decoder(byte_level: Tokenizer, metaspace: Tokenizer) -> None:
    assert isinstance(make_detokenizer(byte_level, []), ByteLevelDetokenizer)
    assert isinstance(make_detokenizer(metaspace, []), StreamDetokenizer)


@settings(max_examples=50)
@given(text=texts)
def test_text_equals_decoding_everything(tokenizer: Tokenizer, text: str) -> None:
    ids = ids_of(tokenizer, text)
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


@settings(max_examples=50)
@given(text=texts)
def test_byte_level_and_metaspace_give_the_text_itself(
    byte_level: Tokenizer, metaspace: Tokenizer, text: str
) -> None:
    assert "".join(pieces_of(byte_level, ids_of(byte_level, text))) == text
    text = "fox" + text.replace("▁", " ").replace("<tool call>", "")
    assert "".join(pieces_of(metaspace, ids_of(metaspace, text))) == text


@settings(max_examples=50)
@given(data=st.data(), text=texts)
def test_an_answer_continues_its_prompt(byte_level: Tokenizer, data: st.DataObject, text: str) -> None:
    """Cut anywhere between tokens, in the middle of characters too, prompt and answer together are the text."""
    text = text.replace(REPLACEMENT, "")
    ids = ids_of(byte_level, text)
    cut = data.draw(st.integers(0, len(ids)))
    prompt, answer = ids[:cut], ids[cut:]
    before = byte_level.decode(prompt)
    answer_text = "".join(pieces_of(byte_level, answer, prompt))
    if before and text.startswith(before):
        assert before + answer_text == text
    else:  # The prompt ends within a character, which decoding it alone shows as one replacement character.
        assert before[:-1] + answer_text == text or not answer


@settings(max_examples=50)
@given(data=st.data(), text=texts)
def test_a_metaspace_answer_continues_its_prompt(
    metaspace: Tokenizer, data: st.DataObject, text: str
) -> None:
    text = "fox " + text.replace("▁", " ").replace("<tool call>", "").replace(REPLACEMENT, "")
    ids = ids_of(metaspace, text)
    cut = data.draw(st.integers(1, len(ids)))
    complete = max(
        (metaspace.decode(ids[:i]) for i in range(cut + 1)), key=lambda t: len(t) * text.startswith(t)
    )
    answer_text = "".join(pieces_of(metaspace, ids[cut:], ids[:cut]))
    assert complete + answer_text == text or cut == len(ids)


@settings(max_examples=50)
@given(ids=sequences, prompt=sequences)
def test_garbage_is_deterministic_bounded_and_whole(
    tokenizer: Tokenizer, ids: list[int], prompt: list[int]
) -> None:
    pieces = pieces_of(tokenizer, ids, prompt)
    assert (
        pieces == pieces_of(tokenizer, ids, prompt) == pieces_of(tokenizer, ids, prompt[-PROMPT_TAIL_TOKENS:])
    )
    waiting = 0
    for token_id, piece in zip(ids, pieces, strict=False):
        shown = vocabulary_of(tokenizer).token_text(token_id) and vocabulary_of(tokenizer).is_text(token_id)
        waiting = 0 if piece else waiting + bool(shown)
        assert waiting <= MAX_HELD_TOKENS


@settings(max_examples=50)
@given(ids=sequences)
def test_byte_level_garbage_equals_decoding_everything(byte_level: Tokenizer, ids: list[int]) -> None:
    pieces = pieces_of(byte_level, ids)
    # The library spells an added token as if it were byte-level; here added tokens are what they say.
    if vocab_id(byte_level, "⟦é⟧") not in ids:
        assert "".join(pieces) == byte_level.decode(ids)


@settings(max_examples=50)
@given(data=st.binary(max_size=40))
def test_byte_level_bytes_one_by_one_equal_python(byte_level: Tokenizer, data: bytes) -> None:
    spelled = {vocabulary_of(byte_level).token_bytes(i): i for i in range(byte_level.get_vocab_size())}
    ids = [spelled[bytes([byte])] for byte in data]
    assert "".join(pieces_of(byte_level, ids)) == data.decode("utf-8", "replace") == byte_level.decode(ids)


@settings(max_examples=50)
@given(parts=st.lists(st.sampled_from(["▁fox", "▁the", "e", "\xff", "\xff" * 5, "\xff" * 20]), max_size=12))
def test_bad_bytes_between_words_lose_nothing(metaspace: Tokenizer, parts: list[str]) -> None:
    ids: list[int] = []
    for part in parts:
        bad = part.startswith("\xff")
        ids += byte_ids(metaspace, part.encode("latin-1")) if bad else [vocab_id(metaspace, part)]
    assert "".join(pieces_of(metaspace, ids)) == metaspace.decode(ids)


def test_a_cut_emoji_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, "fox 🪁")[:-1]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    if tokenizer.decode(ids).endswith(REPLACEMENT):
        assert REPLACEMENT not in "".join(pieces[:-1]), "it could still have become a character"


def test_an_emoji_comes_with_its_last_token(byte_level: Tokenizer, metaspace: Tokenizer) -> None:
    for tokenizer in (byte_level, metaspace):
        pieces = pieces_of(tokenizer, ids_of(tokenizer, "a 🪁"))
        assert pieces[-2:] == ["🪁", ""]


def test_special_tokens_are_skipped_and_added_ones_kept(byte_level: Tokenizer, metaspace: Tokenizer) -> None:
    ids = ids_of(byte_level, "<|start|>fox<tool call>x⟦é⟧<|end|>")
    assert "".join(pieces_of(byte_level, ids)) == "fox<tool call>x⟦é⟧"
    ids = ids_of(metaspace, "<s>fox<tool call><s>")
    assert "".join(pieces_of(metaspace, ids)) == "fox<tool call>"


def test_a_special_token_inside_a_character_does_not_break_it(byte_level: Tokenizer) -> None:
    ids = ids_of(byte_level, "🪁")
    assert len(ids) > 1
    ids[1:1] = [vocab_id(byte_level, "<|end|>"), 10**6]
    assert "".join(pieces_of(byte_level, ids)) == "🪁"


@pytest.mark.parametrize("bad", [-1, 10**6, 2**32, 2**40, 2**70, None, "x", 1.5])
def test_ids_that_are_none_have_no_text(tokenizer: Tokenizer, bad: int) -> None:
    ids = ids_of(tokenizer, "fox")
    pieces = pieces_of(tokenizer, [bad, *ids, bad, *ids], prompt=[bad])
    assert "".join(pieces) == tokenizer.decode(ids + ids)


def test_many_skipped_tokens_hold_nothing(metaspace: Tokenizer) -> None:
    end, fox = vocab_id(metaspace, "</s>"), vocab_id(metaspace, "▁fox")
    pieces = pieces_of(metaspace, [fox, *[end] * 500, 10**6, fox])
    assert pieces == ["fox", *[""] * 501, " fox", ""]


def test_no_space_is_lost_behind_the_prompt(metaspace: Tokenizer) -> None:
    fox = vocab_id(metaspace, "▁fox")
    assert pieces_of(metaspace, [fox], prompt=[fox]) == [" fox", ""]
    assert pieces_of(metaspace, [fox], prompt=[]) == ["fox", ""]


def test_a_text_begins_anew_behind_a_special_token_of_the_prompt(metaspace: Tokenizer) -> None:
    fox, begin = vocab_id(metaspace, "▁fox"), vocab_id(metaspace, "<s>")
    assert pieces_of(metaspace, [fox], prompt=[fox, begin]) == ["fox", ""]
    assert pieces_of(metaspace, [fox], prompt=[begin, fox]) == [" fox", ""]


def test_a_character_begun_by_the_prompt_is_finished_or_forgotten(metaspace: Tokenizer) -> None:
    fox = vocab_id(metaspace, "▁fox")
    kite, euro = byte_ids(metaspace, "🪁".encode()), byte_ids(metaspace, "€".encode())
    for start in ([], [fox]):
        for cut in (1, 2, 3):
            prompt = start + kite[:cut]
            assert "".join(pieces_of(metaspace, [*kite[cut:], fox], prompt)) == "🪁 fox"
            assert "".join(pieces_of(metaspace, [fox, fox], prompt)) == " fox fox"
            assert "".join(pieces_of(metaspace, [*euro, fox], prompt)) == "€ fox"
            assert "".join(pieces_of(metaspace, [], prompt)) == ""
    # Of the bytes that the answer adds in vain only its own are shown.
    assert "".join(pieces_of(metaspace, [kite[1], fox], kite[:1])) == "\ufffd fox"
    assert "".join(pieces_of(metaspace, [kite[1]], kite[:1])) == "\ufffd"


def test_a_byte_level_character_begun_by_the_prompt_is_finished_or_forgotten(byte_level: Tokenizer) -> None:
    kite, fox = ids_of(byte_level, "🪁"), ids_of(byte_level, " fox")
    assert len(kite) == 3
    for cut in (1, 2):
        assert "".join(pieces_of(byte_level, kite[cut:] + fox, kite[:cut])) == "🪁 fox"
        assert "".join(pieces_of(byte_level, fox, kite[:cut])) == " fox"
        assert "".join(pieces_of(byte_level, kite + fox, kite[:cut])) == "🪁 fox"
        assert "".join(pieces_of(byte_level, [], kite[:cut])) == ""
    assert "".join(pieces_of(byte_level, [kite[1], *fox], kite[:1])) == " fox"


def test_bad_bytes_at_the_end_of_the_prompt_do_not_show(metaspace: Tokenizer) -> None:
    fox = vocab_id(metaspace, "▁fox")
    prompt = byte_ids(metaspace, b"\xff\xff")
    assert "".join(pieces_of(metaspace, [fox, fox], prompt)) == " fox fox"
    assert "".join(pieces_of(metaspace, byte_ids(metaspace, "€".encode()), prompt)) == "€"


def test_bad_bytes_do_not_spoil_their_neighbours(metaspace: Tokenizer) -> None:
    """The library's decoder takes back the euro sign, which has left by then."""
    fox = vocab_id(metaspace, "▁fox")
    ids = [*byte_ids(metaspace, b"\xff" + "€".encode() + b"\xff"), fox, fox]
    assert metaspace.decode(ids) == "\ufffd" * 5 + " fox fox"
    assert pieces_of(metaspace, ids) == ["\ufffd", "", "", "€", "\ufffd", " fox", " fox", ""]


def of_words(words: list[str], decoder: decoders.Decoder) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.decoder = decoder
    return tokenizer


def test_a_prefix_that_the_stream_refuses_is_recovered() -> None:
    """The decoder rewrites text that has left, for which the stream raises "Invalid prefix encountered"."""
    tokenizer = of_words(["a", "b", "c"], decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "X")]))
    stream = decoders.DecodeStream(skip_special_tokens=True)
    assert (stream.step(tokenizer, 0), stream.step(tokenizer, 1)) == ("a", None)
    with pytest.raises(Exception, match="Invalid prefix"):
        stream.step(tokenizer, 2)
    assert pieces_of(tokenizer, [0, 1, 2, 2, 0]) == ["a", "", "bc", "c", "a", ""]


def test_a_long_run_of_what_looks_unfinished_is_released_in_time() -> None:
    tokenizer = of_words([REPLACEMENT, "▁fox"], decoders.Metaspace())
    pieces = pieces_of(tokenizer, [0] * 20 + [1, 1])
    assert [i for i, piece in enumerate(pieces) if piece] == [7, 15, 20, 21]
    assert "".join(pieces) == REPLACEMENT * 20 + " fox fox"
    assert "".join(pieces_of(tokenizer, [0] * 3)) == REPLACEMENT * 3


def test_an_unfinished_looking_prompt_is_not_repeated() -> None:
    tokenizer = of_words([REPLACEMENT, "▁fox"], decoders.Metaspace())
    assert "".join(pieces_of(tokenizer, [1, 1], prompt=[1, 0, 0])) == " fox fox"
