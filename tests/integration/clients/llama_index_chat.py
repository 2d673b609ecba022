"""LlamaIndex's `OpenAILike`."""

from __future__ import annotations

import gc
import time
from typing import Any

import report
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

QUESTION = [ChatMessage(role="user", content=report.QUESTION)]


def chat(model: str = report.MODEL, **settings: Any) -> OpenAILike:
    return OpenAILike(
        api_base=f"{report.BASE_URL}/v1",
        api_key="none",
        model=model,
        max_retries=0,
        is_chat_model=True,
        **settings,
    )


def greedy(model: str = report.MODEL) -> OpenAILike:
    return chat(model, temperature=0, max_tokens=report.MAX_TOKENS)


def whole() -> dict[str, Any]:
    answer = greedy().chat(QUESTION)
    return {
        "text": answer.message.content,
        "finish_reason": answer.raw.choices[0].finish_reason,
        "usage": [answer.raw.usage.prompt_tokens, answer.raw.usage.completion_tokens],
    }


def streamed() -> dict[str, Any]:
    chunks = list(greedy().stream_chat(QUESTION))
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.raw.choices]
    return {
        "parts": report.parts(chunk.delta for chunk in chunks),
        "finish_reason": next(filter(None, reasons)),
        "usage": None,
    }


def left() -> float:
    stream = chat(report.SINGLE, max_tokens=report.LONG_ANSWER_TOKENS).stream_chat(QUESTION)
    next(stream)
    # Closing it is not enough: the connection hangs on a generator in a cycle, and goes when that is collected.
    del stream
    gc.collect()
    began_s = time.monotonic()
    chat(report.SINGLE, max_tokens=2).chat(QUESTION)
    return time.monotonic() - began_s


def too_long(*, streamed: bool) -> dict[str, Any]:
    messages = [ChatMessage(role="user", content=report.TOO_LONG)]
    return report.error(lambda: list(greedy().stream_chat(messages)) if streamed else greedy().chat(messages))


def schema() -> dict[str, Any]:
    model = chat(is_function_calling_model=True, should_use_structured_outputs=True)
    answer = model.as_structured_llm(report.Animal).chat(QUESTION)
    return answer.raw.model_dump()


def tools() -> list[dict[str, Any]]:
    model = chat(is_function_calling_model=True)
    weather = FunctionTool.from_defaults(fn=lambda city: city, name="Weather", fn_schema=report.Weather)
    answer = model.chat_with_tools([weather], "The weather in Paris?", tool_required=True)
    calls = model.get_tool_calls_from_response(answer)
    return [{"name": call.tool_name, "arguments": call.tool_kwargs} for call in calls]


report.run(
    {
        "default": lambda: chat().chat(QUESTION).message.content,
        "default_completion": lambda: chat(max_tokens=report.MAX_TOKENS).complete("Once upon a time").text,
        "whole": whole,
        "streamed": streamed,
        "unknown_model": lambda: report.error(lambda: greedy("nothing").chat(QUESTION)),
        "too_long": lambda: too_long(streamed=False),
        "too_long_streamed": lambda: too_long(streamed=True),
        "left": left,
        "schema": schema,
        "tools": tools,
    },
    needs={"schema": "structured_output", "tools": "tools"},
)
