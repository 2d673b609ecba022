from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from app.text.pipeline import ChoiceText
from app.text.vocabulary import REPLACEMENT

words = st.lists(
    st.sampled_from(["fox ", "the", " harbor", "🎉", "👩‍👩‍👧", "日本", "é", "語", " ", "\n", "e"]),
    max_size=12,
)
texts = words.map("".join)
stop_lists = st.lists(
    st.sampled_from(["ox", "har", "🎉", "語é", "e\n", "the", "bor\nfo", "本", "\ufffd"]), max_size=3
)
finishes = st.sampled_from([None, "stop", "length", "error"])
EngineFinish = Literal["stop", "length", "error"]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def outcome(choice: ChoiceText) -> tuple[object, ...]:
    assert len(choice.token_ids) == len(choice.pieces)
    return (choice.token_ids, choice.pieces, choice.finish_reason, choice.stop_reason, choice.text_sha256())


@settings(max_examples=50)
@given(
    text=texts,
    stops=stop_lists,
    min_tokens=st.integers(0, 8),
    finish=finishes,
    cuts=st.sets(st.integers(0, 40)),
    garbage=st.lists(st.integers(0, 430), max_size=6),
    replay_after=st.integers(0, 40),
)
def test_any_split_and_any_replay_give_the_same(
    tokenizer: Tokenizer,
    text: str,
    stops: list[str],
    min_tokens: int,
    finish: EngineFinish | None,
    cuts: set[int],
    garbage: list[int],
    replay_after: int,
) -> None:
    ids = ids_of(tokenizer, text) + garbage
    at_once = ChoiceText(tokenizer, [], stops, min_tokens)
    at_once.push(ids, finish)

    split = ChoiceText(tokenizer, [], stops, min_tokens)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    for start, end in pairwise(bounds):
        before = list(split.pieces)
        split.push(ids[start:end], finish if end == len(ids) else None)
        assert split.pieces[: len(before)] == before or start == end, "a piece that is out does not change"
    assert outcome(split) == outcome(at_once)

    replay = ChoiceText(tokenizer, [], stops, min_tokens)
    replay.push(at_once.token_ids[:replay_after])
    assert replay.pieces == at_once.pieces[:replay_after] or replay_after >= len(at_once.token_ids)

    replay = ChoiceText(tokenizer, [], stops, min_tokens)
    replay.push(at_once.token_ids, at_once.engine_finish)
    assert outcome(replay) == outcome(at_once)


@settings(max_examples=50)
@given(text=texts, stops=stop_lists)
def test_any_stop_string_is_found_and_never_leaves(tokenizer: Tokenizer, text: str, stops: list[str]) -> None:
    ids = ids_of(tokenizer, text)
    whole = tokenizer.decode(ids)
    choice = ChoiceText(tokenizer, [], stops)
    choice.push(ids, "length")
    ends = [end for end in range(1, len(whole) + 1) if whole[:end].endswith(tuple(stops))] if stops else []
    if ends:
        stop = max((stop for stop in stops if whole[: ends[0]].endswith(stop)), key=len)
        assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)
        assert choice.text() == whole[: ends[0] - len(stop)]
    else:
        assert (choice.finish_reason, choice.stop_reason) == ("length", None)
        assert choice.text() == whole
        assert choice.token_ids == ids


def test_tokens_after_a_stop_string_are_dropped(byte_level: Tokenizer) -> None:
    ids = ids_of(byte_level, "the fox END of it")
    choice = ChoiceText(byte_level, [], ["END"])
    choice.push(ids[:3])
    choice.push(ids[3:], "length")
    end = next(i for i in range(len(ids)) if "END" in byte_level.decode(ids[: i + 1]))
    assert choice.token_ids == ids[: end + 1]
    assert choice.text() == "the fox "
    assert (choice.finish_reason, choice.stop_reason, choice.engine_finish) == ("stop", "END", None)
    before = outcome(choice)
    choice.push(ids, "length")
    assert outcome(choice) == before


def test_the_text_of_the_stop_token_does_not_leave(tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, "the fox")
    choice = ChoiceText(tokenizer, [], ["q"])
    choice.push(ids, "stop", stop_token=ids[-1])
    assert choice.token_ids == ids
    assert choice.pieces[-1] == ""
    assert choice.text() == tokenizer.decode(ids[:-1])
    assert (choice.finish_reason, choice.stop_reason) == ("stop", ids[-1])


def test_what_was_held_leaves_with_the_stop_token(byte_level: Tokenizer) -> None:
    half = ids_of(byte_level, "🪁")[:1]
    (end,) = ids_of(byte_level, "<|end|>")
    choice = ChoiceText(byte_level, [], ["x harbor"])
    choice.push([*ids_of(byte_level, "fox ha"), *half, end], "stop")
    assert choice.text() == "fox ha" + REPLACEMENT
    choice = ChoiceText(byte_level, [], ["x harbor"])
    choice.push([*ids_of(byte_level, "fox ha"), end], "stop")
    assert choice.pieces[-1] == "x ha"
    assert choice.text_sha256() == hashlib.sha256(b"fox ha").hexdigest()


def test_a_cut_answer_ends_with_what_was_held(byte_level: Tokenizer) -> None:
    half = ids_of(byte_level, "🪁")[:-1]
    choice = ChoiceText(byte_level, [], [])
    choice.push([*ids_of(byte_level, "fox"), *half], "length")
    assert choice.text() == "fox" + REPLACEMENT
    assert choice.pieces[-1] == REPLACEMENT


def test_a_stop_string_counts_from_min_tokens_on(byte_level: Tokenizer) -> None:
    ids = ids_of(byte_level, "abcabcabc")
    assert len(ids) == 9
    for min_tokens, kept in [(0, 3), (3, 3), (4, 6), (6, 6), (7, 9)]:
        choice = ChoiceText(byte_level, [], ["bc"], min_tokens)
        choice.push(ids)
        assert len(choice.token_ids) == kept
        assert choice.text() == "abcabcabc"[: kept - 2]
    choice = ChoiceText(byte_level, [], ["bc"], 10)
    choice.push(ids, "length")
    assert (choice.text(), choice.finish_reason) == ("abcabcabc", "length")


def test_a_stop_string_that_begins_before_min_tokens_counts(byte_level: Tokenizer) -> None:
    choice = ChoiceText(byte_level, [], ["abc"], min_tokens=3)
    choice.push(ids_of(byte_level, "abc"))
    assert (choice.text(), choice.stop_reason) == ("", "abc")


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_an_empty_answer(tokenizer: Tokenizer, finish: Literal["stop", "length"]) -> None:
    choice = ChoiceText(tokenizer, ids_of(tokenizer, "fox 語")[:-1], ["x"])
    choice.push([], finish)
    assert (choice.token_ids, choice.pieces, choice.finish_reason) == ([], [], finish)
    assert choice.text_sha256() == hashlib.sha256(b"").hexdigest()


def test_an_end_without_tokens_loses_nothing(byte_level: Tokenizer) -> None:
    choice = ChoiceText(byte_level, [], ["x!"])
    choice.push(ids_of(byte_level, "fox"))
    assert choice.text() == "fo"
    choice.push([], "length")
    assert choice.text() == "fox"


def test_an_error_releases_nothing_and_sets_no_reason(byte_level: Tokenizer) -> None:
    choice = ChoiceText(byte_level, [], ["x!"])
    choice.push(ids_of(byte_level, "fox"), "error")
    assert (choice.text(), choice.finish_reason, choice.engine_finish) == ("fo", None, "error")


def test_stops_added_later_count_from_the_next_token_on(byte_level: Tokenizer) -> None:
    choice = ChoiceText(byte_level, [])
    choice.push(ids_of(byte_level, "fox fox"))
    choice.add_stops(["fox"])
    choice.push(ids_of(byte_level, " fox fox"))
    assert choice.text() == "fox fox "
    assert choice.stop_reason == "fox"


def test_text_between_two_cursors(byte_level: Tokenizer) -> None:
    ids = ids_of(byte_level, "the fox 🪁 harbor")
    choice = ChoiceText(byte_level, [])
    choice.push(ids)
    for cut in range(len(ids) + 1):
        assert choice.text(0, cut) + choice.text(cut, len(ids)) == "the fox 🪁 harbor"
        assert choice.text(end=cut) + choice.text(cut) == choice.text()
