"""A choice in parts: each part with the token that released it, the same for every split of the tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer

from app.schema.frames import Message, ToolCall, ToolCallPiece
from app.schema.tokens import EngineFinish
from app.schema.tools import Tool
from app.text.parsed_text import ParsedText
from app.text.response_format import ResponseFormat
from tests.app.text.test_output_parser import TEMPLATE
from tests.fakes.generator import encode, letters

LETTERS = letters()
FORMAT = ResponseFormat(TEMPLATE, LETTERS)
ADD = Tool(name="add")
CALL = '<call>{"name": "add", "arguments": {"a": 1}}</call>'


def text_of(
    stops: Sequence[str] = (),
    min_tokens: int = 0,
    prompt: str = "<bot>",
    tools: Sequence[Tool] = (ADD,),
    **more: Any,
) -> ParsedText:
    (parser,) = FORMAT.parsers(encode(prompt), tools, 1)
    return ParsedText(
        LETTERS, encode(prompt), stops, min_tokens, parser=parser, marks=FORMAT.marks, name="st_1:0", **more
    )


def outcome(text: ParsedText) -> list[object]:
    """All that anyone sees, token by token."""
    each = [
        (text.text(i, i + 1), text.reasoning(i, i + 1), text.tool_call(i, i + 1))
        for i in range(len(text.token_ids))
    ]
    return [
        each,
        text.message(),
        text.finish_reason,
        text.stop_reason,
        text.engine_finish,
        text.reasoning_tokens,
    ]


def whole(output: str, finish: EngineFinish | None = "stop", **more: Any) -> ParsedText:
    text = text_of(**more)
    text.push([*encode(output), 0] if finish == "stop" else encode(output), finish)
    return text


def test_the_parts_of_a_choice() -> None:
    text = whole(f"<think>\nHm.</think>\n\nSure. {CALL}")
    call_id = text.message().tool_calls[0].id
    assert text.message() == Message("Sure.", "Hm.", [ToolCall(call_id, "add", '{"a": 1}')])
    assert call_id.startswith("call_")
    assert (text.text(), text.finish_reason) == ("Sure.", "stop")
    assert text.reasoning_tokens == len("\nHm.</think>")
    assert text.silent


def test_the_id_of_a_call_depends_on_its_stream_its_choice_and_its_index() -> None:
    first, again = whole(CALL + CALL), whole(CALL + CALL)
    assert first.message() == again.message()
    ids = {call.id for call in first.message().tool_calls}
    (parser,) = FORMAT.parsers(encode("<bot>"), [ADD], 1)
    other = ParsedText(LETTERS, [], parser=parser, marks={}, name="st_1:1")
    other.push(encode(CALL))
    assert len(ids | {call.id for call in other.message().tool_calls}) == 3


OUTPUTS = [
    f"<think>\nHm.</think>\n\nSure. {CALL}\n{CALL} Done. ",
    f"One END two{CALL}",
    "<think>END</think>no END",
    f"{CALL}<call>nonsense</call> END",
    '<call>{"name": "add", "arguments": {"a": [1, "END',
    '<call>[{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]</call>',
]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("finish", ["stop", "length", None])
@pytest.mark.parametrize("stops", [(), ("END",)])
def test_any_split_and_any_replay_give_the_same(
    output: str, finish: EngineFinish | None, stops: tuple[str, ...]
) -> None:
    ids = encode(output)
    at_once = text_of(stops)
    at_once.push(ids, finish)
    draw = random.Random(output)
    for _ in range(100):
        split, begin = text_of(stops), 0
        while begin < len(ids):
            end = min(begin + draw.randint(1, 9), len(ids))
            split.push(ids[begin:end], finish if end == len(ids) else None)
            begin = end
        assert outcome(split) == outcome(at_once)
    replay = text_of(stops)
    replay.push(at_once.token_ids, at_once.engine_finish)
    assert outcome(replay) == outcome(at_once)


def test_stop_strings_match_in_content_only() -> None:
    text = whole("<think>END</think>a EN<call>D</call> END b", stops=["END"])
    assert (text.text(), text.finish_reason, text.stop_reason) == ("a EN<call>D</call> ", "stop", "END")
    assert text.message().reasoning == "END"
    text = whole(f"a EN{CALL}D", stops=["END"])
    assert (text.text(), text.stop_reason) == ("a END", None)


def test_an_output_that_is_cut() -> None:
    text = whole("<think>Hm", "length")
    assert (text.message(), text.finish_reason) == (Message("", "Hm"), "length")
    text = whole('<call>{"name": "add", "arguments": {"a": ', "length")
    assert [(call.name, call.arguments) for call in text.message().tool_calls] == [("add", '{"a": ')]


def test_reasoning_that_is_not_shown_is_counted() -> None:
    text = whole("<think>Hm</think>Yes", shows_reasoning=False)
    assert text.message() == Message("Yes")
    assert text.reasoning_tokens == len("Hm</think>")
    assert not text.reasoning(0, len(text.token_ids))


def test_a_token_has_pieces_of_one_call(letters_and_calls: Tokenizer) -> None:
    response_format = ResponseFormat(TEMPLATE, letters_and_calls)
    (parser,) = response_format.parsers(encode("<bot>"), [ADD], 1)
    text = ParsedText(letters_and_calls, [], parser=parser, marks=response_format.marks, name="st_1:0")
    text.push([128, 97, 98, 128], "length")
    pieces = [text.tool_call(i, i + 1) for i in range(4)]
    assert [piece and (piece.index, piece.name, piece.arguments) for piece in pieces] == [
        (0, "a", "{}"),
        (1, "b", "{}"),
        None,
        (2, "a", "{}"),
    ]
    assert [call.name for call in text.message().tool_calls] == ["a", "b", "a", "b"]
    assert list(text.runs(0, 4)) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert (text.text(2, 3), text.text(1, 2)) == ("b", "a")


@pytest.fixture
def letters_and_calls() -> Tokenizer:
    """Token 128 is two calls at once."""
    tokenizer = letters()
    calls = '<call>[{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]</call>'
    tokenizer.add_tokens([calls])
    return tokenizer


def test_special_tokens_that_the_template_knows_are_seen_by_the_parser_only() -> None:
    tokenizer = letters()
    tokenizer.add_special_tokens(["<think>", "</think>", "<eos>"])
    think, no_think, eos = 128, 129, 130
    assert [tokenizer.id_to_token(i) for i in (think, no_think, eos)] == ["<think>", "</think>", "<eos>"]
    response_format = ResponseFormat(TEMPLATE, tokenizer)
    assert set(response_format.marks) == {think, no_think}
    (parser,) = response_format.parsers(encode("<bot>"), [], 1)
    text = ParsedText(tokenizer, [], parser=parser, marks=response_format.marks, name="")
    text.push([think, *encode("a"), eos, no_think, *encode("b"), eos, *encode("c")])
    assert text.message() == Message("bc", "a")


def test_the_prompt_is_read_from_its_last_message_on() -> None:
    long = "x" * 2000
    for prompt, inside in (
        ("<think>", True),
        (f"<think></think>{long}<bot><think>\n", True),
        (f"<bot><think>{long}", True),
        (f"<think>{long}<bot>", False),
        (f"<bot><think>{long}</think>", False),
        (f"{long}<think>\n", True),
        ("", False),
    ):
        (parser,) = FORMAT.parsers(encode(prompt), [], 1)
        assert parser.in_reasoning is inside, prompt[:30]


def test_steered_tokens_are_part_of_the_output() -> None:
    text = text_of(["END"])
    text.push(encode("<think>Hm"))
    text.steer(encode("</think>The END is"))
    text.push(encode(" near EN"))
    text.steer(encode("D"), ends=True)
    assert text.message() == Message("The END is near END", "Hm")
    assert text.finish_reason == "length"


def test_runs_are_cut_where_the_kind_changes() -> None:
    text = whole(f"<think>Hm</think>Yes{CALL}")
    runs = list(text.runs(0, len(text.token_ids)))
    assert [(text.reasoning(*run), text.text(*run)) for run in runs[:2]] == [("Hm", ""), ("", "Yes")]
    piece = text.tool_call(*runs[2])
    assert isinstance(piece, ToolCallPiece)
    assert (piece.index, piece.name, piece.arguments) == (0, "add", '{"a": 1}')
    assert len(runs) == 3
    assert runs[-1][1] == len(text.token_ids)
