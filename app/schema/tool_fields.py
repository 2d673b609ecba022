"""The fields of bodies about tools: those that are offered, and which of them the model may or must call.

The native dialect refuses unknown fields of a tool; the OpenAI one ignores them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag

from app.errors import InvalidRequest
from app.schema.fields import Fields, field_error
from app.schema.tools import Tool

MAX_TOOLS = 512
MAX_NAME_LENGTH = 64
MAX_DESCRIPTION_LENGTH = 65_536
MAX_PARAMETERS_LENGTH = 65_536
"""Characters of the JSON of one tool's parameters."""
MAX_PARAMETERS_DEPTH = 64


def for_a_message(value: dict[str, Any]) -> dict[str, Any]:
    """Refuses what JSON has, but no message of the graph can hold."""
    try:
        msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError, RecursionError):
        raise field_error("has a number that is too large, or is nested too deeply") from None
    return value


def _function_name(name: str) -> str:
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_LENGTH}}}", name):
        raise field_error("must be 1 to {most} letters, digits, _ and -", most=MAX_NAME_LENGTH)
    return name


def _bounded(parameters: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [parameters]
    for _ in range(MAX_PARAMETERS_DEPTH):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise field_error("must be nested at most {most} levels deep", most=MAX_PARAMETERS_DEPTH)
    for_a_message(parameters)
    if len(json.dumps(parameters, ensure_ascii=False)) > MAX_PARAMETERS_LENGTH:
        raise field_error("must have at most {most} characters as JSON", most=MAX_PARAMETERS_LENGTH)
    return parameters


def _only_functions(kind: str) -> str:
    if kind != "function":
        raise field_error("must be function: the model can call nothing else")
    return kind


FunctionName = Annotated[
    str,
    AfterValidator(_function_name),
    Field(json_schema_extra={"pattern": f"^[A-Za-z0-9_-]{{1,{MAX_NAME_LENGTH}}}$"}),
]
ToolType = Annotated[str, AfterValidator(_only_functions), Field(json_schema_extra={"enum": ["function"]})]


class FunctionFields(Fields):
    """A function that the model may call."""

    model_config = ConfigDict(extra="forbid")

    name: FunctionName
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_LENGTH)] = Field(
        default="", description="When and how to call it, for the model."
    )
    parameters: Annotated[dict[str, Any], AfterValidator(_bounded)] = Field(
        default={}, description="A JSON Schema of its arguments. Without it, it takes none."
    )
    strict: bool = Field(default=False, description="Whether the arguments must fit the schema.")


class OpenAIFunctionFields(FunctionFields):
    """A function that the model may call. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")


class ToolFields(Fields):
    """A tool that the model may call."""

    model_config = ConfigDict(extra="forbid")

    type: ToolType = "function"
    function: FunctionFields


class OpenAIToolFields(ToolFields):
    """A tool that the model may call. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    function: OpenAIFunctionFields


class _FunctionChoice(Fields):
    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]


class NamedTool(Fields):
    """The tool with this name."""

    model_config = ConfigDict(extra="ignore")

    type: ToolType = "function"
    function: _FunctionChoice


class _AllowedTools(Fields):
    model_config = ConfigDict(extra="ignore")

    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


class AllowedTools(Fields):
    """Some of the tools: the model sees no others."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["allowed_tools"]
    allowed_tools: _AllowedTools


def _kind_of_choice(choice: object) -> str:
    if not isinstance(choice, dict):
        return "a word"
    return "some tools" if choice.get("type") == "allowed_tools" else "one tool"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("a word")]
    | Annotated[NamedTool, Tag("one tool")]
    | Annotated[AllowedTools, Tag("some tools")],
    Discriminator(_kind_of_choice),
]

Tools = Annotated[list[ToolFields], Field(max_length=MAX_TOOLS, fail_fast=True)]
OpenAITools = Annotated[list[OpenAIToolFields], Field(max_length=MAX_TOOLS, fail_fast=True)]


def chosen_tools(
    offered: Sequence[ToolFields], choice: Literal["none", "auto", "required"] | NamedTool | AllowedTools
) -> tuple[tuple[Tool, ...], str]:
    """The tools that the model is shown, and `GenerationRequest.tool_choice`. None are shown when none may be called.

    Raises `InvalidRequest` for tools of the same name and for a choice that names none of them.
    """
    tools: dict[str, Tool] = {}
    for place, tool in enumerate(offered):
        function = tool.function
        if function.name in tools:
            param = f"tools[{place}].function.name"
            raise InvalidRequest(f"{param} must differ from the names of the other tools.", param=param)
        tools[function.name] = Tool(
            name=function.name,
            description=function.description,
            parameters=function.parameters,
            strict=function.strict,
        )
    if choice == "none":
        return (), "none"
    if not tools and choice != "auto":
        raise InvalidRequest("tool_choice is only allowed with tools.", param="tool_choice")
    if isinstance(choice, NamedTool):
        _check_offered(choice, tools, "tool_choice")
        return tuple(tools.values()), f"function:{choice.function.name}"
    if isinstance(choice, AllowedTools):
        allowed = choice.allowed_tools
        for place, named in enumerate(allowed.tools):
            _check_offered(named, tools, f"tool_choice.allowed_tools.tools[{place}]")
        names = {named.function.name for named in allowed.tools}
        return tuple(tool for tool in tools.values() if tool.name in names), allowed.mode
    return tuple(tools.values()), choice


def _check_offered(named: NamedTool, tools: dict[str, Tool], field: str) -> None:
    if named.function.name not in tools:
        param = f"{field}.function.name"
        raise InvalidRequest(f"{param} must be the name of one of the tools.", param=param)
