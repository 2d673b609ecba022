"""What products send by default, but for tools and structured output: route and body of a first message."""

from __future__ import annotations

from typing import Any

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"

BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Open WebUI": (
        CHAT,
        {"stream": True, "model": "letters", "messages": HELLO, "stream_options": {"include_usage": True}},
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
            "parallel_tool_calls": True,
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
