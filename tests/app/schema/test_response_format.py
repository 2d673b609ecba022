"""What a request says of the form of its answer, and the constraint that it becomes."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.schema.constraint import Constraint
from app.schema.native import StreamBody
from app.schema.openai import ChatCompletionBody, CompletionBody
from app.schema.response_format import MAX_SCHEMA_CHARACTERS, MAX_SCHEMA_DEPTH, schema_constraint
from app.settings import LimitsSettings
from app.validation import parse_object

FORMATS: list[tuple[dict[str, Any], Constraint | None]] = [
    ({"type": "text"}, None),
    ({"type": "json_object"}, Constraint(kind="json_schema", text='{"type":"object"}')),
    (
        {
            "type": "json_schema",
            "json_schema": {
                "name": "n",
                "description": "d",
                "strict": True,
                "schema": {"properties": {"ü": {}, "a": {"const": 1.5}}, "type": "object"},
            },
        },
        Constraint(
            kind="json_schema", text='{"properties":{"ü":{},"a":{"const":1.5}},"type":"object"}'
        ),
    ),
    ({"type": "regex", "pattern": "a+"}, Constraint(kind="regex", text="a+")),
    ({"type": "grammar", "grammar": 'start: "a"'}, Constraint(kind="lark", text='start: "a"')),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "constraint"), FORMATS)
def test_every_dialect_makes_the_same_constraint(
    wanted: dict[str, Any], constraint: Constraint | None
) -> None:
    messages = [{"role": "user", "content": "a"}]
    for body in (
        parse_object(StreamBody, {"prompt": "a", "response_format": wanted}),
        parse_object(CompletionBody, {"prompt": "a", "response_format": wanted}),
        parse_object(ChatCompletionBody, {"messages": messages, "response_format": wanted}),
    ):
        assert body.to_request(LimitsSettings(), "m").sampling.constraint == constraint


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def test_a_schema_is_bounded() -> None:
    schema_constraint(nested(MAX_SCHEMA_DEPTH))
    schema_constraint({"const": "a" * (MAX_SCHEMA_CHARACTERS - 12)})
    for schema, complaint in (
        (nested(MAX_SCHEMA_DEPTH + 1), "deeper than"),
        (nested(50_000), "deeper than"),
        ({"const": "a" * (MAX_SCHEMA_CHARACTERS - 11)}, "characters"),
        ({"x-guidance": {}}, "x-guidance"),
        ({"const": float("nan")}, "not valid JSON"),
        ({"const": "\ud800"}, "not valid JSON"),
        ({"const": object()}, "not valid JSON"),
    ):
        with pytest.raises(InvalidRequest, match=complaint) as refusal:
            schema_constraint(schema, "structured_outputs")
        assert refusal.value.param == "structured_outputs"
