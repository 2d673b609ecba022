"""The field `structured_outputs`, which is vLLM's word for `response_format`."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import InvalidRequest
from app.schema.constraint import Constraint
from app.schema.fields import field_error
from app.schema.response_format import (
    MAX_GRAMMAR_CHARACTERS,
    Grammar,
    Pattern,
    grammar_constraint,
    schema_constraint,
)

PARAM = "structured_outputs"
MAX_CHOICES = 1024
MAX_CHOICE_CHARACTERS = 1024

_KINDS = ("json", "json_object", "regex", "choice", "grammar")

_Choice = Annotated[str, Field(min_length=1, max_length=MAX_CHOICE_CHARACTERS)]


class StructuredOutputs(BaseModel):
    """Exactly one kind of constraint."""

    model_config = ConfigDict(strict=True)

    json_schema: dict[str, Any] | str | None = Field(
        default=None, alias="json", description="A JSON schema, also as a string."
    )
    json_object: bool = Field(default=False, description="true: any JSON object.")
    regex: Pattern | None = Field(default=None, description="The answer matches it as a whole.")
    choice: Annotated[list[_Choice], Field(min_length=1, max_length=MAX_CHOICES)] | None = Field(
        default=None, description="The answer is one of these texts."
    )
    grammar: Grammar | None = Field(default=None, description="A Lark grammar, with the rule start.")

    @model_validator(mode="before")
    @classmethod
    def _check_kinds(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        given = {kind: item for kind, item in value.items() if item is not None}
        for kind in given:
            if kind not in _KINDS:
                raise field_error("is not a field of this request", field=kind)
        return given

    def constraint(self) -> Constraint:
        """What the answer must be. Raises `InvalidRequest` for none or several, and as `schema_constraint` does."""
        values = (self.json_schema, self.json_object or None, self.regex, self.choice, self.grammar)
        given = [kind for kind, value in zip(_KINDS, values, strict=True) if value is not None]
        if len(given) != 1:
            raise InvalidRequest(f"{PARAM} must have exactly one of {', '.join(_KINDS)}.", param=PARAM)
        if self.json_schema is not None:
            schema: object = self.json_schema
            if isinstance(schema, str):
                with suppress(ValueError, RecursionError):
                    schema = json.loads(schema)
            if not isinstance(schema, dict):
                raise InvalidRequest(f"{PARAM}.json must be a JSON schema.", param=f"{PARAM}.json")
            return schema_constraint(schema, PARAM)
        if self.regex is not None:
            return Constraint(kind="regex", text=self.regex, param=PARAM)
        if self.choice is not None:
            text = "start: " + " | ".join(json.dumps(choice) for choice in self.choice)
            if len(text) > MAX_GRAMMAR_CHARACTERS:
                raise InvalidRequest(
                    f"{PARAM}.choice must have at most {MAX_GRAMMAR_CHARACTERS} characters in all.",
                    param=f"{PARAM}.choice",
                )
            return Constraint(kind="lark", text=text, param=PARAM)
        if self.grammar is not None:
            return grammar_constraint(self.grammar, PARAM)
        return schema_constraint({"type": "object"}, PARAM)
