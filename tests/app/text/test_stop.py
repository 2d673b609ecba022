from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.text.stop import StopMatcher

letters = st.text("ab", max_size=25)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4)


def first_match(text: str, stops: list[str]) -> tuple[int, str] | None:
    """Start and string of the match that is completed first, the longest of those; by looking at every place."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return end - len(longest), longest
    return None


def longest_beginning(text: str, stops: list[str]) -> str:
    """The longest suffix of `text` that is a proper prefix of a stop string."""
    lengths = [n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])]
    return text[len(text) - max(lengths, default=0) :]


@settings(max_examples=60)
@given(pieces=st.lists(letters, max_size=12), stops=stop_lists)
def test_any_split_finds_the_same_match_and_holds_the_least(pieces: list[str], stops: list[str]) -> None:
    matcher, released, seen = StopMatcher(stops), "", ""
    for piece in pieces:
        seen += piece
        released += matcher.push(piece)
        match = first_match(seen, stops)
        if match is None:
            assert matcher.matched is None
            assert matcher.held == longest_beginning(seen, stops)
            assert released + matcher.held == seen
        else:
            assert (len(released), matcher.matched) == match
            assert seen.startswith(released)
            assert matcher.held == ""
    if matcher.matched is None:
        assert released + matcher.flush() == seen
    else:
        assert matcher.flush() == ""


@settings(max_examples=60)
@given(pieces=st.lists(st.tuples(letters, st.booleans()), max_size=12), stops=stop_lists)
def test_a_match_counts_when_it_ends_armed(pieces: list[tuple[str, bool]], stops: list[str]) -> None:
    matcher, released, seen = StopMatcher(stops), "", ""
    armed_ends: list[bool] = []
    for piece, armed in pieces:
        seen += piece
        armed_ends += [armed] * len(piece)
        released += matcher.push(piece, armed)
    ends = [i + 1 for i, armed in enumerate(armed_ends) if armed and seen[: i + 1].endswith(tuple(stops))]
    if ends:
        longest = max((stop for stop in stops if seen[: ends[0]].endswith(stop)), key=len)
        assert matcher.matched == longest
        assert seen.startswith(released)
        assert len(released) == ends[0] - len(longest)
    else:
        assert matcher.matched is None
        assert matcher.held == longest_beginning(seen, stops)
        assert released + matcher.held == seen


@settings(max_examples=60)
@given(first=letters, second=letters, stops=stop_lists, more=stop_lists)
def test_added_stops_count_from_the_next_text_on(
    first: str, second: str, stops: list[str], more: list[str]
) -> None:
    matcher = StopMatcher(stops)
    released = matcher.push(first)
    if first_match(first, stops):
        return
    matcher.add(more)
    released += matcher.push(second)
    for end in range(1, len(second) + 1):
        whole = first + second[:end]
        found = [stop for stop in stops if whole.endswith(stop)]
        found += [stop for stop in more if second[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            assert released == whole[: len(whole) - len(longest)]
            assert matcher.matched == longest
            return
    assert matcher.matched is None
    assert released + matcher.flush() == first + second


def test_without_stops_everything_passes() -> None:
    matcher = StopMatcher([])
    assert not matcher.watching
    assert [matcher.push("any text"), matcher.held, matcher.flush()] == ["any text", "", ""]


@pytest.mark.parametrize(
    ("stops", "pieces", "released", "matched"),
    [
        (["END"], ["a E", "N", "D b"], ["a ", "", ""], "END"),
        (["END"], ["a E", "N", "d"], ["a ", "", "ENd"], None),
        (["END"], ["EEN", "D"], ["E", ""], "END"),
        (["\n\n"], ["x\n", "y", "\n\n"], ["x", "\ny", ""], "\n\n"),
        (["abcd", "bc"], ["abcd"], ["a"], "bc"),  # completed first
        (["bc", "abc"], ["xabc"], ["x"], "abc"),  # completed together: the longest
        (["aa"], ["a", "a"], ["", ""], "aa"),
        (["🦊 !"], ["hi 🦊", " ?", "🦊 !"], ["hi ", "🦊 ?", ""], "🦊 !"),
    ],
)
def test_cases(stops: list[str], pieces: list[str], released: list[str], matched: str | None) -> None:
    matcher = StopMatcher(stops)
    assert [matcher.push(piece) for piece in pieces] == released
    assert matcher.matched == matched


def test_nothing_leaves_after_a_match() -> None:
    matcher = StopMatcher(["x"])
    assert [matcher.push("axb"), matcher.push("c"), matcher.flush()] == ["a", "", ""]


@pytest.mark.parametrize("stops", [[""], ["a", ""]])
def test_an_empty_stop_is_refused(stops: list[str]) -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(stops)


def test_adding_a_stop_that_is_there_keeps_its_progress() -> None:
    matcher = StopMatcher(["END"])
    pieces = [matcher.push("E")]
    matcher.add(["END"])
    pieces.append(matcher.push("ND"))
    assert "".join(pieces) == ""
    assert matcher.matched == "END"


def test_hostile_stops_take_linear_time() -> None:
    """Every character moves every pattern far forward and then back; quadratic work would take a minute."""
    stops = ["a" * (1023 - i) + "b" for i in range(16)]
    matcher = StopMatcher(stops)
    began_s = time.process_time()
    for _ in range(4):
        assert matcher.push("a" * 500 + "c").endswith("c")
    assert time.process_time() - began_s < 2
