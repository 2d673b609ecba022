"""What products send by default, but for structured output: route and body of a first message, and of an agent's second turn."""

from __future__ import annotations

from typing import Any

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"


def _tool(name: str, **properties: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {key: {"type": kind, "description": key} for key, kind in properties.items()},
        "required": list(properties),
    }
    return {
        "type": "function",
        "function": {"name": name, "description": f"Does {name}.", "parameters": schema},
    }


def _call(name: str, arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


TIME = _tool("get_current_timestamp")
READ = _tool("read_file", path="string")
ASK = _tool("ask_followup_question", question="string", follow_up="array")

BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Open WebUI": (
        CHAT,
        {"stream": True, "model": "letters", "messages": HELLO, "stream_options": {"include_usage": True}},
    ),
    "Open WebUI, with built-in tools": (
        CHAT,
        {
            "stream": True,
            "model": "letters",
            "messages": HELLO,
            "tools": [TIME, _tool("calculate_timestamp", days_ago="integer"), ASK],
            "stream_options": {"include_usage": True},
        },
    ),
    "Open WebUI, after a call": (
        CHAT,
        {
            "stream": True,
            "model": "letters",
            "messages": [
                *HELLO,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [_call("get_current_timestamp", "{}") | {"index": 0}],
                    "reasoning_content": "I need the time.",
                },
                {"role": "tool", "tool_call_id": "call_1", "content": '{"timestamp": 1790000000}'},
            ],
            "tools": [TIME],
        },
    ),
    "Open WebUI, continue": (
        CHAT,
        {
            "stream": True,
            "model": "letters",
            "messages": [*HELLO, {"role": "assistant", "content": "a"}],
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
    ),
    "LangChain": (
        CHAT,
        {"model": "letters", "messages": HELLO, "max_completion_tokens": 8192, "stream": False},
    ),
    "LangChain, replay": (
        CHAT,
        {"model": "letters", "messages": [*HELLO, {"role": "assistant", "content": None}, *HELLO]},
    ),
    "LangChain, agent": (
        CHAT,
        {
            "model": "letters",
            "messages": [
                *HELLO,
                {"role": "assistant", "content": None, "tool_calls": [_call("read_file", '{"path": "a"}')]},
                {"role": "tool", "content": "text", "tool_call_id": "call_1"},
            ],
            "tools": [READ],
            "parallel_tool_calls": False,
            "stream": False,
        },
    ),
    "LangChain, a tool that must be called": (
        CHAT,
        {
            "model": "letters",
            "messages": HELLO,
            "tools": [READ | {"function": READ["function"] | {"strict": True}}],
            "tool_choice": {"type": "function", "function": {"name": "read_file"}},
        },
    ),
    "n8n, agent": (
        CHAT,
        {
            "model": "letters",
            "messages": [{"role": "system", "content": "You are a helpful assistant"}, *HELLO],
            "tools": [_tool("Calculator", input="string")],
            "tool_choice": "auto",
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": None,
        },
    ),
    "LangChain.js": (
        CHAT,
        {
            "model": "letters",
            "messages": HELLO,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_completion_tokens": -1,
            "logit_bias": None,
            "n": 1,
        },
    ),
    "LlamaIndex": (CHAT, {"model": "letters", "messages": HELLO, "temperature": 0.1, "max_tokens": None}),
    "LlamaIndex, agent": (
        CHAT,
        {
            "model": "letters",
            "messages": [
                *HELLO,
                {"role": "assistant", "content": None, "tool_calls": [_call("read_file", "{}")]},
                {"role": "tool", "content": "text", "tool_call_id": "call_1", "name": "read_file"},
            ],
            "tools": [READ | {"function": READ["function"] | {"strict": False}}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
    ),
    "AI SDK, agent": (
        CHAT,
        {
            "model": "letters",
            "messages": [
                *HELLO,
                {
                    "role": "assistant",
                    "content": "Reading.",
                    "reasoning_content": "Two files.",
                    "tool_calls": [
                        _call("read_file", '{"path":"a"}'),
                        _call("read_file", '{"path":"b"}', "call_2"),
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "text"},
                {"role": "tool", "tool_call_id": "call_2", "content": '{"error":"no such file"}'},
            ],
            "tools": [READ],
            "tool_choice": "auto",
            "stream": True,
        },
    ),
    "AI SDK": (CHAT, {"model": "letters", "messages": HELLO, "max_tokens": 32000, "stream": True}),
    "Cline": (
        CHAT,
        {
            "model": "letters",
            "messages": [{"role": "system", "content": "be brief"}, *HELLO],
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "reasoning_effort": "medium",
        },
    ),
    "Cline, second turn": (
        CHAT,
        {
            "model": "letters",
            "messages": [
                {"role": "system", "content": "be brief"},
                *HELLO,
                {"role": "assistant", "content": "", "tool_calls": [_call("read_file", '{"path":"a"}')]},
                {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "text"}]},
            ],
            "tools": [READ, ASK],
            "tool_choice": "auto",
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    "Roo Code": (
        CHAT,
        {
            "model": "letters",
            "temperature": 0,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}],
                }
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [READ | {"function": READ["function"] | {"strict": True}}, ASK],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
        },
    ),
    "Continue, agent": (
        CHAT,
        {
            "model": "letters",
            "messages": [
                *HELLO,
                {"role": "assistant", "content": " ", "tool_calls": [_call("read_file", '{"path":"a"}')]},
                {"role": "tool", "tool_call_id": "call_1", "content": "text"},
            ],
            "max_tokens": 4096,
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [READ],
            "parallel_tool_calls": False,
        },
    ),
    "Continue": (
        CHAT,
        {
            "model": "letters",
            "messages": HELLO,
            "max_tokens": 4096,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    "Continue, autocomplete": (
        "/v1/completions",
        {
            "model": "letters",
            "prompt": "def f(",
            "max_tokens": 4096,
            "temperature": 0.01,
            "stop": ["", "\n\n", *(f"stop {number}" for number in range(30))],
            "stream": True,
        },
    ),
    "Dify": (
        CHAT,
        {
            "model": "letters",
            "messages": HELLO,
            "max_tokens": 5,
            "user": "u-1",
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    "Dify, extended": (
        CHAT,
        {
            "model": "letters",
            "messages": HELLO,
            "chat_template_kwargs": {"enable_thinking": False, "thinking": False},
            "thinking": {"type": "disabled"},
            "enable_thinking": False,
            "reasoning_effort": "low",
        },
    ),
    "Dify, agent": (
        CHAT,
        {
            "model": "letters",
            "messages": [
                *HELLO,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [_call("current_time", "{}")],
                },
                {"role": "tool", "content": "noon", "tool_call_id": "call_1", "name": "current_time"},
            ],
            "tools": [_tool("current_time")],
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": "u-1",
        },
    ),
    "LiteLLM, agent": (
        CHAT,
        {
            "model": "letters",
            "messages": [
                *HELLO,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [_call("read_file", '{"path": "a"}')],
                    "function_call": None,
                    "provider_specific_fields": {"refusal": None},
                    "annotations": [],
                },
                {"role": "tool", "tool_call_id": "call_1", "name": "read_file", "content": "text"},
            ],
            "tools": [READ],
            "tool_choice": "auto",
            "extra_body": {},
        },
    ),
    "LiteLLM": (
        CHAT,
        {"model": "letters", "messages": HELLO, "extra_body": {}, "user": "u", "metadata": {"a": "b"}},
    ),
    "OpenAI Agents SDK": (
        CHAT,
        {
            "model": "letters",
            "messages": HELLO,
            "store": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [],
            "tool_choice": "none",
        },
    ),
    "OpenAI Agents SDK, some of the tools": (
        CHAT,
        {
            "model": "letters",
            "messages": HELLO,
            "store": True,
            "tools": [READ, TIME],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "read_file"}}],
                },
            },
            "parallel_tool_calls": False,
        },
    ),
    "a client of functions": (
        CHAT,
        {
            "model": "letters",
            "messages": [
                *HELLO,
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "5"},
            ],
        },
    ),
    "an old UI": (
        CHAT,
        {
            "model": "letters",
            "messages": HELLO,
            "top_p": 0,
            "seed": 2**63,
            "max_tokens": -1,
            "n": 10,
            "stop": "",
            "user": None,
        },
    ),
}
