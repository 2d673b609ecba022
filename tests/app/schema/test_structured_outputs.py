"""The field `structured_outputs` of the OpenAI routes."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.schema.constraint import Constraint, ConstraintKind
from app.schema.openai import CompletionBody
from app.settings import LimitsSettings
from app.validation import parse_object


def constraint(outputs: dict[str, Any] | None, **fields: Any) -> Constraint | None:
    body = parse_object(CompletionBody, {"prompt": "a", "structured_outputs": outputs, **fields})
    return body.to_request(LimitsSettings(), "m").sampling.constraint


@pytest.mark.parametrize(
    ("outputs", "kind", "text"),
    [
        ({"json": {"type": "null"}}, "json_schema", '{"type":"null"}'),
        ({"json": '{"type": "null"}', "regex": None}, "json_schema", '{"type":"null"}'),
        ({"json_object": True}, "json_schema", '{"type":"object"}'),
        ({"regex": "a|b", "json_object": False}, "regex", "a|b"),
        ({"choice": ["yes", 'a "b"\n']}, "lark", 'start: "yes" | "a \\"b\\"\\n"'),
        ({"grammar": 'start: "a"'}, "lark", 'start: "a"'),
    ],
)
def test_each_kind_has_its_constraint(outputs: dict[str, Any], kind: ConstraintKind, text: str) -> None:
    wanted = Constraint(kind=kind, text=text, param="structured_outputs")
    assert constraint(outputs) == wanted
    assert constraint(outputs, response_format={"type": "text"}) == wanted


@pytest.mark.parametrize(
    ("outputs", "param", "complaint"),
    [
        ({}, "structured_outputs", "exactly one"),
        ({"json_object": False}, "structured_outputs", "exactly one"),
        ({"regex": "a", "choice": ["a"]}, "structured_outputs", "exactly one"),
        ({"json": "{"}, "structured_outputs.json", "must be a JSON schema"),
        ({"json": "[" * 100_000}, "structured_outputs.json", "must be a JSON schema"),
        ({"json": "5"}, "structured_outputs.json", "must be a JSON schema"),
        ({"json": {"x-guidance": {}}}, "structured_outputs", "x-guidance"),
        ({"choice": []}, "structured_outputs.choice", "must not be empty"),
        ({"choice": [""]}, "structured_outputs.choice[0]", "must not be empty"),
        ({"structural_tag": "a"}, "structured_outputs.structural_tag", "is not a field"),
        ("a", "structured_outputs", "must be an object"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(outputs: Any, param: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as refusal:
        constraint(outputs)
    assert refusal.value.param == param


def test_nothing_is_nothing() -> None:
    assert constraint(None) is None
