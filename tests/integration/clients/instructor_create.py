"""instructor, which only ever asks for objects: of a model that can neither structured output nor tools it shows errors."""

from __future__ import annotations

from typing import Any

import instructor
import report
from openai import OpenAI
from pydantic import BaseModel


def ask(
    mode: instructor.Mode,
    model: str = report.MODEL,
    question: str = report.QUESTION,
    kind: type[BaseModel] = report.Animal,
) -> Any:
    client = instructor.from_openai(
        OpenAI(base_url=f"{report.BASE_URL}/v1", api_key="none", max_retries=0), mode=mode
    )
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model=model, messages=messages, response_model=kind, max_retries=0)


def refusal(**asked: str) -> dict[str, Any]:
    """In the mode that asks in words only, which every server takes."""
    return report.error(lambda: ask(instructor.Mode.MD_JSON, **asked))


def tools() -> list[dict[str, Any]]:
    """A call that is required by the name of the tool."""
    weather = ask(instructor.Mode.TOOLS, question="The weather in Paris?", kind=report.Weather)
    return [{"name": "Weather", "arguments": weather.model_dump()}]


report.run(
    {
        "unknown_model": lambda: refusal(model="nothing"),
        "too_long": lambda: refusal(question=report.TOO_LONG),
        "schema": lambda: ask(instructor.Mode.JSON_SCHEMA).model_dump(),
        "tools": tools,
    },
    needs={"schema": "structured_output", "tools": "tools"},
)
