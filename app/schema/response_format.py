"""The field `response_format`: what the answer must look like, in OpenAI's words and in some more."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.errors import InvalidRequest
from app.schema.constraint import Constraint

MAX_SCHEMA_CHARACTERS = 128 * 1024
MAX_SCHEMA_DEPTH = 100
MAX_PATTERN_CHARACTERS = 4096
MAX_GRAMMAR_CHARACTERS = 64 * 1024
_OPTION = re.compile(r"x-guidance|\btemperature\s*=")

Pattern = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARACTERS)]

Grammar = Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR_CHARACTERS)]


class TextFormat(BaseModel):
    """Free text, which is the default."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]

    def constraint(self) -> None:
        """Nothing."""


class JsonObjectFormat(BaseModel):
    """Any JSON object."""

    model_config = ConfigDict(strict=True)
    type: Literal["json_object"]

    def constraint(self) -> Constraint:
        """What the answer must be."""
        return schema_constraint({"type": "object"})


class JsonSchema(BaseModel):
    """The answer fits the schema whether `strict` or not."""

    model_config = ConfigDict(strict=True)
    json_schema: dict[str, Any] = Field(alias="schema")
    name: Annotated[str, Field(max_length=64)] | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(BaseModel):
    """JSON that fits a schema."""

    model_config = ConfigDict(strict=True)
    type: Literal["json_schema"]
    json_schema: JsonSchema

    def constraint(self) -> Constraint:
        """What the answer must be. Raises `InvalidRequest` for a schema that is too large or too deep."""
        return schema_constraint(self.json_schema.json_schema)


class RegexFormat(BaseModel):
    """Text that matches a regular expression as a whole."""

    model_config = ConfigDict(strict=True)
    type: Literal["regex"]
    pattern: Pattern

    def constraint(self) -> Constraint:
        """What the answer must be."""
        return Constraint(kind="regex", text=self.pattern)


class GrammarFormat(BaseModel):
    """Text that a Lark grammar derives from its rule `start`."""

    model_config = ConfigDict(strict=True)
    type: Literal["grammar"]
    grammar: Grammar

    def constraint(self) -> Constraint:
        """What the answer must be. Raises `InvalidRequest` as `grammar_constraint` does."""
        return grammar_constraint(self.grammar)


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat,
    Field(discriminator="type"),
]


def schema_constraint(schema: dict[str, Any], param: str = "response_format") -> Constraint:
    """JSON that fits `schema`. Raises `InvalidRequest`, with `param`, for one that is too large or deep, or that is no JSON."""
    if _is_deeper(schema, MAX_SCHEMA_DEPTH):
        raise InvalidRequest(f"The schema is nested deeper than {MAX_SCHEMA_DEPTH} levels.", param=param)
    if "x-guidance" in schema:
        raise InvalidRequest("The schema can't have x-guidance.", param=param)
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError):
        raise InvalidRequest("The schema is not valid JSON.", param=param) from None
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise InvalidRequest(
            f"The schema has {len(text)} characters; at most {MAX_SCHEMA_CHARACTERS} are allowed.",
            param=param,
        )
    return Constraint(kind="json_schema", text=text, param=param)


def grammar_constraint(grammar: str, param: str = "response_format") -> Constraint:
    """A text of `grammar`. Raises `InvalidRequest` for options that change how it is sampled, or how strictly it is kept."""
    if found := _OPTION.search(grammar):
        raise InvalidRequest(f"The grammar can't have the option {found[0].rstrip(' =')}.", param=param)
    return Constraint(kind="lark", text=grammar, param=param)


def _is_deeper(value: object, levels: int) -> bool:
    """Whether lists and objects are nested in each other more than `levels` times."""
    layer: list[Any] = [value]
    for _ in range(levels):
        items = [item for part in layer for item in (part.values() if isinstance(part, dict) else part)]
        layer = [item for item in items if isinstance(item, dict | list)]
    return bool(layer)
