"""LangChain's `ChatOpenAI`."""

from __future__ import annotations

import time
from typing import Any

import report
from langchain_openai import ChatOpenAI


def chat(model: str = report.MODEL, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{report.BASE_URL}/v1", api_key="none", model=model, max_retries=0, **settings
    )


def greedy(model: str = report.MODEL) -> ChatOpenAI:
    return chat(model, temperature=0, max_tokens=report.MAX_TOKENS)


def whole() -> dict[str, Any]:
    answer = greedy().invoke(report.QUESTION)
    usage = answer.usage_metadata
    return {
        "text": answer.content,
        "finish_reason": answer.response_metadata["finish_reason"],
        "usage": [usage["input_tokens"], usage["output_tokens"]],
    }


def streamed() -> dict[str, Any]:
    chunks = list(
        chat(temperature=0, max_tokens=report.MAX_TOKENS, stream_usage=True).stream(report.QUESTION)
    )
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return {
        "parts": report.parts(chunk.content for chunk in chunks),
        "finish_reason": total.response_metadata["finish_reason"],
        "usage": [total.usage_metadata["input_tokens"], total.usage_metadata["output_tokens"]],
    }


def left() -> float:
    stream = chat(report.SINGLE, max_tokens=report.LONG_ANSWER_TOKENS).stream(report.QUESTION)
    next(stream)
    stream.close()
    began_s = time.monotonic()
    chat(report.SINGLE, max_tokens=2).invoke(report.QUESTION)
    return time.monotonic() - began_s


def schema() -> dict[str, Any]:
    return chat().with_structured_output(report.Animal, method="json_schema").invoke("A fox").model_dump()


def tools() -> list[dict[str, Any]]:
    answer = chat().bind_tools([report.Weather], tool_choice="required").invoke("The weather in Paris?")
    return [{"name": call["name"], "arguments": call["args"]} for call in answer.tool_calls]


report.run(
    {
        "default": lambda: chat().invoke(report.QUESTION).content,
        "whole": whole,
        "streamed": streamed,
        "unknown_model": lambda: report.error(lambda: greedy("nothing").invoke(report.QUESTION)),
        "too_long": lambda: report.error(lambda: greedy().invoke(report.TOO_LONG)),
        "too_long_streamed": lambda: report.error(lambda: list(greedy().stream(report.TOO_LONG))),
        "left": left,
        "schema": schema,
        "tools": tools,
    },
    needs={"schema": "structured_output", "tools": "tools"},
)
