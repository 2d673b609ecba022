"""LiteLLM's `completion`."""

from __future__ import annotations

import json
import time
from typing import Any

import report
from litellm import completion

QUESTION = [{"role": "user", "content": report.QUESTION}]
WEATHER = {
    "type": "function",
    "function": {"name": "Weather", "parameters": report.Weather.model_json_schema()},
}


def chat(model: str = report.MODEL, messages: list[dict[str, Any]] = QUESTION, **settings: Any) -> Any:
    return completion(
        model=f"openai/{model}",
        api_base=f"{report.BASE_URL}/v1",
        api_key="none",
        max_retries=0,
        messages=messages,
        **settings,
    )


def greedy(model: str = report.MODEL, messages: list[dict[str, Any]] = QUESTION, **settings: Any) -> Any:
    return chat(model, messages, temperature=0, max_tokens=report.MAX_TOKENS, **settings)


def whole() -> dict[str, Any]:
    answer = greedy()
    return {
        "text": answer.choices[0].message.content,
        "finish_reason": answer.choices[0].finish_reason,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
    }


def streamed() -> dict[str, Any]:
    chunks = list(greedy(stream=True, stream_options={"include_usage": True}))
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    usage = next(chunk.usage for chunk in chunks if getattr(chunk, "usage", None))
    return {
        "parts": report.parts(choice.delta.content for chunk in chunks for choice in chunk.choices),
        "finish_reason": next(filter(None, reasons)),
        "usage": [usage.prompt_tokens, usage.completion_tokens],
    }


def too_long(*, streamed: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": report.TOO_LONG}]
    return report.error(
        lambda: list(greedy(messages=messages, stream=True)) if streamed else greedy(messages=messages)
    )


def schema() -> dict[str, Any]:
    answer = chat(response_format=report.Animal).choices[0].message.content
    return report.Animal.model_validate_json(answer).model_dump()


def tools() -> list[dict[str, Any]]:
    message = chat(tools=[WEATHER], tool_choice="required").choices[0].message
    calls = [call.function for call in message.tool_calls]
    return [{"name": call.name, "arguments": json.loads(call.arguments)} for call in calls]


def left() -> float:
    stream = chat(report.SINGLE, max_tokens=report.LONG_ANSWER_TOKENS, stream=True)
    next(stream)
    stream.completion_stream.close()
    began_s = time.monotonic()
    chat(report.SINGLE, max_tokens=2)
    return time.monotonic() - began_s


report.run(
    {
        "default": lambda: chat().choices[0].message.content,
        "whole": whole,
        "streamed": streamed,
        "unknown_model": lambda: report.error(lambda: greedy("nothing")),
        "too_long": lambda: too_long(streamed=False),
        "too_long_streamed": lambda: too_long(streamed=True),
        "left": left,
        "schema": schema,
        "tools": tools,
    },
    needs={"schema": "structured_output", "tools": "tools"},
)
