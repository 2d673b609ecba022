"""pydantic-ai's `Agent`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import report
from openai import AsyncOpenAI
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def agent(model: str = report.MODEL, **settings: Any) -> Agent[None, Any]:
    client = AsyncOpenAI(base_url=f"{report.BASE_URL}/v1", api_key="none", max_retries=0)
    return Agent(OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client)), **settings)


def greedy(model: str = report.MODEL) -> Agent[None, Any]:
    return agent(model, model_settings={"temperature": 0, "max_tokens": report.MAX_TOKENS})


async def default() -> str:
    return (await agent().run(report.QUESTION)).output


async def whole() -> dict[str, Any]:
    result = await greedy().run(report.QUESTION)
    return {
        "text": result.output,
        "finish_reason": result.response.finish_reason,
        "usage": [result.response.usage.input_tokens, result.response.usage.output_tokens],
    }


async def streamed() -> dict[str, Any]:
    async with greedy().run_stream(report.QUESTION) as result:
        parts = [text async for text in result.stream_text(delta=True, debounce_by=None)]
        return {
            "parts": report.parts(parts),
            "finish_reason": result.response.finish_reason,
            "usage": [result.response.usage.input_tokens, result.response.usage.output_tokens],
        }


async def read(question: str) -> list[str]:
    async with greedy().run_stream(question) as result:
        return [text async for text in result.stream_text(delta=True)]


async def left() -> float:
    settings = {"max_tokens": report.LONG_ANSWER_TOKENS}
    reader = asyncio.ensure_future(agent(report.SINGLE, model_settings=settings).run(report.QUESTION))
    await asyncio.sleep(1)
    reader.cancel()
    await asyncio.wait([reader])
    began_s = time.monotonic()
    await agent(report.SINGLE, model_settings={"max_tokens": 2}).run(report.QUESTION)
    return time.monotonic() - began_s


async def schema() -> dict[str, Any]:
    result = await agent(output_type=NativeOutput(report.Animal)).run(report.QUESTION)
    return result.output.model_dump()


async def tools() -> list[dict[str, Any]]:
    """An output tool, which pydantic-ai asks for with `tool_choice: "required"`."""
    result = await agent(output_type=ToolOutput(report.Weather, name="Weather")).run("The weather in Paris?")
    return [{"name": "Weather", "arguments": result.output.model_dump()}]


def done(call: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Any]:
    return lambda: asyncio.run(call())


report.run(
    {
        "default": done(default),
        "whole": done(whole),
        "streamed": done(streamed),
        "unknown_model": lambda: report.error(done(lambda: greedy("nothing").run(report.QUESTION))),
        "too_long": lambda: report.error(done(lambda: greedy().run(report.TOO_LONG))),
        "too_long_streamed": lambda: report.error(done(lambda: read(report.TOO_LONG))),
        "left": done(left),
        "schema": done(schema),
        "tools": done(tools),
    },
    needs={"schema": "structured_output", "tools": "tools"},
)
