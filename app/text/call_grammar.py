"""What holds a chat's answer to a form: the grammar of calls that are required, and where a form begins after reasoning."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from app.errors import InvalidRequest
from app.ports import CALLS_FIELD, REASONING_FIELDS, ModelCard
from app.schema.constraint import Constraint
from app.schema.requests import GenerationRequest
from app.schema.tools import Tool
from app.text.vocabulary import Vocabulary

MOST_CALLS = 16
_NAMED = "function:"
_MORE_PROPERTIES = frozenset(
    (
        "additionalProperties",
        "patternProperties",
        "unevaluatedProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "$ref",
        "if",
    )
)
"""Words with which a schema says of what other properties it knows."""


def forced_calls(request: GenerationRequest, card: ModelCard, vocabulary: Vocabulary) -> Constraint | None:
    """What the answer to `request` must be, None if it may call nothing.

    A named tool is called once, otherwise up to `MOST_CALLS` calls follow each other. Arguments fit the parameters of the tool;
    what can't be kept of these is ignored, unless the tool is `strict`. Raises `InvalidRequest` for a model without structured
    output or with a format that has no grammar here, and for what forbids the end of an answer.
    """
    choice = request.tool_choice
    if choice in ("none", "auto"):
        return None
    fields = card.response_template["fields"] if card.response_template is not None else {}
    call = fields.get(CALLS_FIELD, {})
    transform = call.get("transform")
    is_json = isinstance(transform, dict) and transform.get("function") == "{content}"
    is_marked = isinstance(call.get("open"), str) and isinstance(call.get("close"), str)
    if not (card.structured_output and is_json and is_marked):
        raise InvalidRequest(
            f"Calls can't be required of the model {card.name}: send tool_choice auto.", param="tool_choice"
        )
    for name in ("ignore_eos", "min_tokens"):
        if getattr(request.sampling, name):
            raise InvalidRequest(f"{name} can't go with a tool that must be called.", param=name)
    named = choice.removeprefix(_NAMED) if choice.startswith(_NAMED) else None
    tools = [tool for tool in request.tools if named in (None, tool.name)]
    more = 0 if named is not None or not request.parallel_tool_calls else MOST_CALLS - 1
    opening, closing = _mark(call["open"], vocabulary), _mark(call["close"], vocabulary)
    any_tool = " | ".join(f"tool_{number}" for number in range(len(tools)))
    rules = [f"call: {opening} /\\s?/ ({any_tool}) /\\s?/ {closing}"]
    rules += [_tool(number, tool) for number, tool in enumerate(tools)]
    thought: Any = next(
        (fields[name]["close"] for name in REASONING_FIELDS if "close" in fields.get(name, {})), None
    )
    start = f"start: call (/\\s?/ call){{0,{more}}}" if more else "start: call"
    if isinstance(thought, str):
        # Reasoning comes first, up to the mark that ends it. The mark of a call is no part of it.
        start = start.replace("start: ", "start: thought? ")
        thoughts, end = "/(?s:.*)/", _mark(thought, vocabulary)
        if opening.startswith('"'):
            thoughts += " & ~/(?s:.*)" + re.escape(call["open"]).replace("/", "\\/") + "(?s:.*)/"
        if end.startswith('"'):
            rules += ["thought: told /\\s*/", f"told[suffix={end}]: THOUGHTS"]
        else:
            rules.append(f"thought: THOUGHTS {end} /\\s*/")
        rules.append(f"THOUGHTS: {thoughts}")
    return Constraint(kind="lark", text="\n".join([start, *rules]), param="tool_choice")


def after_reasoning(constraint: Constraint, end: str | None, vocabulary: Vocabulary) -> Constraint:
    """`constraint` for an answer that begins inside reasoning, which `end` ends; as it is if `end` is None.

    Raises `InvalidRequest` where the end is no token: it may be written in other tokens than expected.
    """
    if end is None:
        return constraint
    token_id = vocabulary.tokenizer.token_to_id(end)
    if token_id is None:
        raise InvalidRequest(
            f"{constraint.param} can't be kept by a model that thinks first; switch that off, with enable_thinking: false.",
            param=constraint.param,
        )
    return msgspec.structs.replace(constraint, starts_after=(token_id,))


def _tool(number: int, tool: Tool) -> str:
    schema = {"type": "object"} | (tool.parameters or {"properties": {}})
    if not tool.strict:
        schema = _without_lookaround(schema)
    known = schema.get("properties")
    if (
        isinstance(known, dict)
        and not schema.keys() & _MORE_PROPERTIES
        and all(name in known for name in schema.get("required") or ())
    ):
        schema["additionalProperties"] = False  # a function takes no arguments but its own
    options = {
        "whitespace_flexible": True,
        "whitespace_pattern": " ?",
        "coerce_one_of": not tool.strict,
        "lenient": not tool.strict,
    }
    name, arguments = json.dumps(f'"{tool.name}"'), json.dumps('"arguments"')
    return (
        f'tool_{number}: /\\{{ ?/ "\\"name\\"" /: ?/ {name} /, ?/ {arguments} /: ?/ arguments_{number} / ?\\}}/\n'
        f"arguments_{number}: %json {json.dumps(schema | {'x-guidance': options})}"
    )


def _without_lookaround(value: Any) -> Any:
    """A schema without the patterns that no grammar can keep."""
    if isinstance(value, list):
        return [_without_lookaround(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_lookaround(item)
        for key, item in value.items()
        if not (key == "pattern" and isinstance(item, str) and "(?" in item)
    }


def _mark(text: str, vocabulary: Vocabulary) -> str:
    """The mark of a format: its token, which special ones are found by, or its text."""
    token_id = vocabulary.tokenizer.token_to_id(text)
    if token_id is not None and vocabulary.is_special(token_id):
        return f"<[{token_id}]>"
    return json.dumps(text)
