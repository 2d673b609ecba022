"""What bodies say of tools, in both dialects: those that the model is shown, which it must call, and earlier calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from app.schema.native import StreamBody
from app.schema.openai import ChatCompletionBody
from app.schema.requests import GenerationRequest, Message
from app.schema.tokenizing import TokenizeBody
from app.schema.tools import Tool, ToolCall
from app.settings import LimitsSettings
from app.validation import parse_object

LIMITS = LimitsSettings()
HELLO = {"role": "user", "content": "Hello."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "default": None}}}
WEATHER = {"name": "weather", "description": "The weather.", "parameters": SCHEMA, "strict": True}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": {"name": "time-2"}}]
SHOWN = (
    Tool(name="weather", description="The weather.", parameters=SCHEMA, strict=True),
    Tool(name="time-2"),
)
Ask = Callable[..., GenerationRequest]


def native(**fields: Any) -> GenerationRequest:
    return parse_object(StreamBody, {"messages": [HELLO]} | fields).to_request(LIMITS, "m")


def chat(**fields: Any) -> GenerationRequest:
    return parse_object(ChatCompletionBody, {"messages": [HELLO]} | fields).to_request(LIMITS, "m")


def tokenized(**fields: Any) -> GenerationRequest:
    return parse_object(TokenizeBody, {"messages": [HELLO]} | fields).to_request("m")


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize("ask", [native, chat, tokenized])
def test_tools_are_shown_as_they_are_written(ask: Ask) -> None:
    request = ask(tools=TOOLS)
    assert (request.tools, request.tool_choice) == (SHOWN, "auto")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=GenerationRequest) == request


@pytest.mark.parametrize("ask", [native, chat, tokenized])
@pytest.mark.parametrize(
    ("choice", "shown", "meant"),
    [
        (None, SHOWN, "auto"),
        ("auto", SHOWN, "auto"),
        ("none", (), "none"),
        ("required", SHOWN, "required"),
        (named("time-2"), SHOWN, "function:time-2"),
        ({"function": {"name": "weather"}}, SHOWN, "function:weather"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("time-2")]}},
            SHOWN[1:],
            "auto",
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [named("time-2"), named("weather")]},
            },
            SHOWN,
            "required",
        ),
    ],
)
def test_the_choice_of_tools(ask: Ask, choice: object, shown: tuple[Tool, ...], meant: str) -> None:
    request = ask(tools=TOOLS, tool_choice=choice)
    assert (request.tools, request.tool_choice) == (shown, meant)


@pytest.mark.parametrize("ask", [native, chat])
def test_how_the_answer_is_sent(ask: Ask) -> None:
    assert (ask().parallel_tool_calls, ask().include_reasoning) == (True, True)
    request = ask(tools=TOOLS, parallel_tool_calls=False, include_reasoning=False)
    assert (request.parallel_tool_calls, request.include_reasoning) == (False, False)


def test_null_is_absence_in_a_tool_too() -> None:
    bare = {"name": "time-2", "description": None, "parameters": None, "strict": None}
    for ask in (native, chat):
        assert ask(tools=[{"type": None, "function": bare}]).tools == SHOWN[1:]


def test_openai_tools_may_carry_what_other_servers_read() -> None:
    tool = {"type": "function", "function": WEATHER | {"returns": {}}, "cache_control": {"type": "ephemeral"}}
    assert chat(tools=[tool]).tools == SHOWN[:1]


CALLS = (ToolCall(id="call_1", name="weather", arguments='{"city": "Paris"}'),)
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
}


@pytest.mark.parametrize("ask", [native, chat])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_the_second_turn_of_an_agent(ask: Ask, content: dict[str, Any]) -> None:
    request = ask(
        messages=[
            HELLO,
            {"role": "assistant", **content, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "sunny"},
            {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "warm"}]},
        ]
    )
    assert request.messages == (
        Message("user", "Hello."),
        Message("assistant", "", tool_calls=CALLS),
        Message("tool", "sunny", tool_call_id="call_1", name="weather"),
        Message("tool", "warm", tool_call_id="call_2"),
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=GenerationRequest) == request


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        (
            {"role": "assistant", "content": "Ok.", "reasoning_content": "Hm.", "tool_calls": None},
            Message("assistant", "Ok.", reasoning="Hm."),
        ),
        ({"role": "assistant", "content": "Ok.", "reasoning": "Hm."}, Message("assistant", "Ok.", "Hm.")),
        (
            {"role": "assistant", "content": "Ok.", "reasoning": "Hm.", "reasoning_content": None},
            Message("assistant", "Ok.", "Hm."),
        ),
        ({"role": "user", "content": "a", "reasoning_content": "b", "tool_calls": []}, Message("user", "a")),
        ({"role": "user", "content": "a", "tool_call_id": "b"}, Message("user", "a")),
        (
            {"role": "assistant", "tool_calls": [CALL | {"index": 0, "extra_content": {"google": {}}}]},
            Message("assistant", "", tool_calls=CALLS),
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"ä": [1]}}}]},
            Message("assistant", "", tool_calls=(ToolCall(id="", name="f", arguments='{"ä": [1]}'),)),
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": None}}]},
            Message("assistant", "", tool_calls=(ToolCall(id="1", name="f", arguments=""),)),
        ),
        (
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            Message("assistant", "", tool_calls=(ToolCall(id="call_f", name="f", arguments="{}"),)),
        ),
        (
            {"role": "function", "name": "f", "content": "5"},
            Message("tool", "5", tool_call_id="call_f", name="f"),
        ),
        ({"role": "tool", "tool_call_id": "1", "content": None}, Message("tool", "", tool_call_id="1")),
    ],
)
def test_turns_as_openai_clients_replay_them(message: dict[str, Any], meant: Message) -> None:
    assert chat(messages=[HELLO, message]).messages == (Message("user", "Hello."), meant)


def test_a_native_body_can_say_what_the_openai_dialect_can() -> None:
    fields: dict[str, Any] = {
        "tools": TOOLS,
        "tool_choice": named("weather"),
        "parallel_tool_calls": False,
        "include_reasoning": False,
        "chat_template_kwargs": {"enable_thinking": False},
        "add_generation_prompt": False,
        "continue_final_message": True,
        "truncate_prompt_tokens": 5,
        "stream": True,
        "on_disconnect": "grace",
    }
    assert native(**fields) == chat(**fields)
    completion = parse_object(StreamBody, {"prompt": "a", "add_special_tokens": False})
    assert not completion.to_request(LIMITS, "m").add_special_tokens
