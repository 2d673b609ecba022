"""Reasoning and tool calls in the OpenAI dialect; the exact bytes are in `tests/golden/parts.*`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from app.dialects.openai import ChatFold, ChatStreamEncoder, model_object
from app.schema.frames import ChoiceEnd, Delta, End, Frame, Message, ToolCall, ToolCallPiece
from app.settings import ReasoningField
from tests.cases.folds import folded
from tests.cases.frames import STREAMS, TIMINGS, start, usage
from tests.fakes.generator import FakeTokenizer

FIELDS: list[tuple[ReasoningField, set[str]]] = [
    ("reasoning_content", {"reasoning_content"}),
    ("reasoning", {"reasoning"}),
    ("both", {"reasoning_content", "reasoning"}),
]


def deltas(frames: list[Frame], **options: Any) -> list[dict[str, Any]]:
    """The deltas and the finish reason of the only choice."""
    events = ChatStreamEncoder(**options).encode(frames).decode().split("\n\n")
    choices = [json.loads(event[6:])["choices"] for event in events if event.startswith("data: {")]
    return [{**choice["delta"], "finish_reason": choice["finish_reason"]} for (choice,) in choices]


@pytest.mark.parametrize(("field", "names"), FIELDS)
def test_the_fields_of_reasoning(field: ReasoningField, names: set[str]) -> None:
    text = 'They "ask"\u2028'
    streamed = deltas(STREAMS["parts"], reasoning_field=field)[1]
    assert streamed == {**dict.fromkeys(names, text), "finish_reason": None}
    message = folded(ChatFold(field), STREAMS["parts"])["choices"][0]["message"]
    assert message.keys() & {"reasoning_content", "reasoning"} == names
    assert {message[name] for name in names} == {text}


def test_the_chunks_of_a_call_add_up_to_the_call_of_the_answer() -> None:
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas(STREAMS["parts"]):
        for piece in delta.get("tool_calls", ()):
            if "id" in piece:
                assert piece["index"] == len(calls)
                calls[piece["index"]] = {key: value for key, value in piece.items() if key != "index"}
            else:
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    answer = folded(ChatFold(), STREAMS["parts"])["choices"][0]
    assert list(calls.values()) == answer["message"]["tool_calls"]
    assert answer["finish_reason"] == "tool_calls"


def test_content_is_null_when_there_are_only_calls() -> None:
    end = STREAMS["parts"][-1]
    assert isinstance(end, End)
    frames: list[Frame] = [start(), end]
    answer = folded(ChatFold(), frames)["choices"][0]["message"]
    assert answer["content"] is None
    nothing = Message("", "", [])
    ended = msgspec.structs.replace(end, choices=[ChoiceEnd(0, "stop", None, nothing)])
    answer = folded(ChatFold(), [start(), ended])["choices"][0]
    assert (answer["message"]["content"], answer["finish_reason"]) == ("", "stop")
    assert "tool_calls" not in answer["message"]


def test_a_call_that_was_cut_ends_with_length() -> None:
    cut = Message("", "", [ToolCall("call_1", "add", '{"a": ')])
    frames: list[Frame] = [
        start(),
        Delta("2", 0, "", 2, tool_call=ToolCallPiece(0, "call_1", "add", '{"a": ')),
        End("2", [ChoiceEnd(0, "length", None, cut)], usage(2), TIMINGS, ["ab"]),
    ]
    assert deltas(frames)[-1] == {"finish_reason": "length"}
    assert folded(ChatFold(), frames)["choices"][0]["finish_reason"] == "length"


def test_a_delta_with_all_parts_is_a_chunk_for_each() -> None:
    piece = ToolCallPiece(0, "call_1", "add", "{}")
    frames: list[Frame] = [start(), Delta("1", 0, "b", 1, [7], reasoning="a", tool_call=piece)]
    encoder = ChatStreamEncoder()
    events = encoder.encode(frames).decode().split("\n\n")[1:-1]
    choices = [json.loads(event[6:])["choices"][0] for event in events]
    assert [choice["delta"] for choice in choices] == [
        {"reasoning_content": "a"},
        {"content": "b"},
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]  # fmt: skip
    assert [choice.get("token_ids") for choice in choices] == [[7], None, None, None]


@pytest.mark.parametrize(
    ("fields", "tools", "reasoning"),
    [
        (None, False, False),
        ({"content"}, False, False),
        ({"tool_calls"}, True, False),
        ({"thinking"}, False, True),
    ],
)
def test_a_model_has_the_abilities_of_its_template(
    fields: set[str] | None, tools: bool, reasoning: bool
) -> None:
    template: dict[str, Any] | None = None
    if fields is not None:
        template = {"fields": {key: {} for key in fields}}
    card = msgspec.structs.replace(FakeTokenizer().card, response_template=template)
    abilities = model_object(card)["abilities"]
    assert (abilities["tools"], abilities["reasoning"]) == (tools, reasoning)
