"""Log probabilities of completions: spellings, alternatives, and offsets into the released text."""

from __future__ import annotations

import json
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialects.completion_logprobs import completion_logprobs
from app.dialects.openai import CompletionFold, CompletionStreamEncoder
from app.schema.frames import ChoiceEnd, Delta, End, Frame, Logprob, TopLogprob
from tests.cases.folds import folded
from tests.cases.frames import TIMINGS, start, usage


def logprob(token: str | bytes, value: float, *top: tuple[str | bytes, float]) -> Logprob:
    (text, data), *others = (spelled(each) for each in (token, *(each for each, _ in top)))
    numbers = [number for _, number in top]
    alternatives = [
        TopLogprob(other, number, its) for (other, its), number in zip(others, numbers, strict=True)
    ]
    return Logprob(text, value, data, alternatives)


def spelled(token: str | bytes) -> tuple[str, list[int]]:
    """A token as `LogprobWriter` gives it."""
    data = token.encode() if isinstance(token, str) else token
    return data.decode("utf-8", "replace"), list(data)


def test_alternatives_that_read_alike_stay_apart() -> None:
    one = logprob(b"\xe3", -3.0, (b"\xe3", -3.0), (b"\xe2", -1.0), (b" \xe3\\", -2.0), ("\ufffd", -4.0))
    shaped = completion_logprobs([one], [0])
    assert shaped["tokens"] == [r"bytes:\xe3"]
    assert shaped["token_logprobs"] == [-3.0]
    assert shaped["top_logprobs"] == [
        {r"bytes:\xe3": -3.0, r"bytes:\xe2": -1.0, r"bytes: \xe3\x5c": -2.0, "\ufffd": -4.0}
    ]


def test_a_byte_token_that_reads_like_a_letter_is_written_by_its_byte() -> None:
    shaped = completion_logprobs([logprob("a", -3.0, ("b", -1.0), ("a", -3.0), ("b", -2.0))], [0])
    assert shaped["top_logprobs"] == [{"a": -3.0, "b": -1.0, "bytes:b": -2.0}]


PIECES = ["", "né", "", "abc", "", "d\u2028"]
TOKENS = [b"n\xc3", b"\xa9", b"<|eos|>", b"abc", b"\xe2\x80", b"d\xa8"]
"""What the tokens spell is longer than the text that they released."""


def pieces_of(index: int, begin: int, end: int) -> list[int]:
    assert index == 1
    return [len(piece) for piece in PIECES[begin:end]]


@given(st.lists(st.booleans(), min_size=len(PIECES) - 1, max_size=len(PIECES) - 1))
def test_offsets_count_the_released_text_however_deltas_are_cut(cuts: list[bool]) -> None:
    frames: list[Frame] = [start()]
    begin = 0
    for end, cut in enumerate([*cuts, True], start=1):
        if cut:
            logprobs = [logprob(token, -1.0) for token in TOKENS[begin:end]]
            frames.append(Delta(f"7.{end}", 1, "".join(PIECES[begin:end]), end - begin, None, logprobs))
            begin = end
    ends = [ChoiceEnd(0, "stop", None), ChoiceEnd(1, "stop", None)]
    frames.append(End(f"7.{len(PIECES)}", ends, usage(13), TIMINGS, ["", ""]))

    expected = list(accumulate(map(len, PIECES), initial=0))[:-1]
    body = CompletionStreamEncoder(n=2, piece_lengths=pieces_of).encode(frames).decode()
    chunks = [json.loads(event.removeprefix("data: ")) for event in body.split("\n\n")[:-2]]
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [offset for found in streamed if found for offset in found["text_offset"]] == expected
    answer = folded(CompletionFold(pieces_of), frames)["choices"][1]
    assert answer["logprobs"]["text_offset"] == expected
    assert answer["text"] == "".join(PIECES)


@pytest.mark.parametrize("choice", [0, 1])
def test_without_lengths_the_text_of_a_delta_is_its_last_token_s(choice: int) -> None:
    encoder = CompletionStreamEncoder(n=2)
    encoder.encode([start()])
    offsets = []
    for count, text in ((2, "abc"), (3, "d")):
        cursor = f"{count}.{count}"
        logprobs = [logprob("x", -1.0)] * (2 if count == 2 else 1)
        chunk = encoder.encode([Delta(cursor, choice, text, len(logprobs), None, logprobs)]).decode()
        offsets.append(json.loads(chunk.removeprefix("data: "))["choices"][0]["logprobs"]["text_offset"])
    assert offsets == [[0, 0], [3]]
