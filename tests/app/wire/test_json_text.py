"""JSON in which no reader sees a line end."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialects.openai import ChatFold, ChatStreamEncoder, CompletionFold, CompletionStreamEncoder
from app.schema.frames import ChoiceEnd, Delta, End, Frame, Logprob
from app.schema.server_messages import Addressed
from app.wire.encoder import Encoder
from app.wire.json_text import json_bytes, json_string
from app.wire.sse import NativeSseEncoder
from app.wire.websocket import message_json
from tests.cases.folds import folded
from tests.cases.frames import STREAM, TIMINGS, start, usage

SEPARATORS = "\u2028\u2029\x85"
TEXT = f"né{SEPARATORS}𝔘"
LOGPROB = Logprob(TEXT, -0.5, list(TEXT.encode()), [])
FRAMES: list[Frame] = [
    start(),
    Delta("1", 0, TEXT, 1),
    Delta("2", 0, TEXT, 1, logprobs=[LOGPROB]),
    End("2", [ChoiceEnd(0, "stop", TEXT)], usage(2), TIMINGS, [""]),
]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("", '""'),
        ('a"\n', r'"a\"\n"'),
        ("é", '"é"'),
        (SEPARATORS, r'"\u2028\u2029\u0085"'),
        ("\u2027\u2030\x84\x86", '"\u2027\u2030\x84\x86"'),
    ],
)
def test_a_string(text: str, written: str) -> None:
    assert json_string(text) == written
    assert json_bytes(text) == written.encode()


@given(st.text(st.characters(codec="utf-8") | st.sampled_from(SEPARATORS)))
def test_any_string_is_one_line_and_means_the_same(text: str) -> None:
    for written in (json_string(text), json_bytes({"a": text}).decode()):
        assert len(written.splitlines()) == 1
    assert json.loads(json_string(text)) == text
    assert json.loads(json_bytes({"a": text})) == {"a": text}


@pytest.mark.parametrize(
    "encoder",
    [NativeSseEncoder(STREAM), ChatStreamEncoder(), CompletionStreamEncoder(piece_lengths=lambda *_: [5])],
)
def test_the_lines_of_a_stream_are_those_of_its_format(encoder: Encoder) -> None:
    body = encoder.encode(FRAMES)
    assert body.decode().splitlines() == body.decode().split("\n")[:-1]
    assert body.count(rb"\u2028\u2029\u0085") >= 4


def test_answers_and_messages_in_one_line() -> None:
    folds = (ChatFold(), CompletionFold(piece_lengths=lambda *_: [5]))
    for written in (
        *(json_bytes(folded(fold, FRAMES)).decode() for fold in folds),
        *(message_json(Addressed(frame, STREAM)) for frame in FRAMES),
    ):
        assert len(written.splitlines()) == 1
