"""Constraints of clients, the hostile ones too, checked in a process of their own."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.schema.constraint import Constraint, ConstraintKind
from deployments.grammar.checker import GrammarChecker
from deployments.grammar.compiler import compile_grammar, read_vocabulary
from deployments.model import MODEL_DIR


@pytest.fixture(scope="module")
def checker() -> Iterator[GrammarChecker]:
    checker = GrammarChecker((MODEL_DIR / "tokenizer.json").read_text("utf-8"), 2816, frozenset([2]))
    yield checker
    checker.close()


def schema(value: dict[str, Any]) -> Constraint:
    return Constraint(kind="json_schema", text=json.dumps(value))


def references(count: int) -> dict[str, Any]:
    """Each refers to the next: the library follows them without an end of its stack in mind."""
    links = {f"a{number}": {"$ref": f"#/$defs/a{number + 1}"} for number in range(count)}
    return {"$defs": {**links, f"a{count}": {}}, "$ref": "#/$defs/a0"}


def properties(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(count)}}


TAKEN: dict[str, Constraint] = {
    "any object": schema({"type": "object"}),
    "anything": schema({}),
    "recursion": schema(
        {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    ),
    "a large enumeration": schema({"enum": [f"value {number}" for number in range(5000)]}),
    "a thousand properties": schema(properties(1000)),
    "nested quantifiers": schema({"type": "string", "pattern": "^((a+)+)+$"}),
    "a large number of characters": schema({"type": "string", "minLength": 10**6}),
    "many alternatives of alternatives": schema(
        {"allOf": [{"anyOf": [{"required": [f"p{i}{j}"], "type": "object"} for j in range(3)]} for i in range(4)]}
    ),
    "a regular expression": Constraint(kind="regex", text="(a|b)*a(a|b){25}"),
    "a grammar": Constraint(kind="lark", text='start: "a" | "b" start'),
}  # fmt: skip

REFUSED: dict[str, tuple[Constraint, str]] = {
    "nothing fits": (schema({"type": "string", "minLength": 2, "maxLength": 1}), "minLength"),
    "an empty language": (Constraint(kind="regex", text="[^\\s\\S]"), "No text fits"),
    "only itself": (schema({"$ref": "#"}), "No text fits"),
    "an unknown keyword": (schema({"not": {}}), '"not"'),
    "an unknown type": (schema({"type": "strin"}), "strin"),
    "an unknown format": (schema({"type": "string", "format": "weird"}), "weird"),
    "a schema elsewhere": (schema({"$ref": "http://127.0.0.1:9/a.json"}), "127.0.0.1:9"),
    "options of the library": (Constraint(kind="json_schema", text="[]"), "schema"),
    "too many alternatives": (
        schema(
            {"allOf": [{"anyOf": [{"required": [f"p{i}{j}"], "type": "object"} for j in range(4)]} for i in range(8)]}
        ),
        "too large",
    ),
    "a long chain of references": (schema(references(4000)), "too complex"),
    "a bad pattern": (Constraint(kind="regex", text="(a"), "unclosed group"),
    "look-ahead": (Constraint(kind="regex", text="a(?=b)"), "look-around"),
    "an unknown rule": (Constraint(kind="lark", text="start: other"), "other"),
    "another dialect": (Constraint(kind="lark", text='root ::= "a"'), "Expected"),
    "deep parentheses": (Constraint(kind="lark", text="start: " + "(" * 9000), "."),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_what_can_be_kept_is_taken(checker: GrammarChecker, name: str) -> None:
    checker.check(TAKEN[name])
    checker.check(TAKEN[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_with_the_reason(checker: GrammarChecker, name: str) -> None:
    constraint, reason = REFUSED[name]
    for _ in range(2):
        with pytest.raises(InvalidRequest) as refusal:
            checker.check(constraint)
        assert reason in refusal.value.message and "\n" not in refusal.value.message
        assert refusal.value.param == "response_format"
    checker.check(TAKEN["any object"])


def test_what_takes_too_long_ends_its_process_and_is_remembered(
    checker: GrammarChecker, caplog: pytest.LogCaptureFixture
) -> None:
    kind: ConstraintKind = "json_schema"
    slow = Constraint(kind=kind, text=json.dumps(properties(10_000)), param="structured_outputs")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="too") as refusal:
                checker.check(slow)
            assert refusal.value.param == "structured_outputs"
    assert len(caplog.records) == 1
    checker.check(TAKEN["anything"])


def test_a_process_that_ended_by_itself_is_no_fault_of_the_next_constraint(checker: GrammarChecker) -> None:
    checker.check(Constraint(kind="regex", text="not asked before"))
    child = checker._child
    assert child is not None
    child.kill()
    child.wait()
    checker.check(Constraint(kind="regex", text="nor this"))


def test_what_passes_goes_on_after_its_first_token(checker: GrammarChecker) -> None:
    tokenizer_json = (MODEL_DIR / "tokenizer.json").read_text("utf-8")
    vocabulary = read_vocabulary(tokenizer_json, 2816, [2])
    constraint = Constraint(kind="json_schema", text=json.dumps(properties(700)))
    checker.check(constraint)
    matcher = compile_grammar(vocabulary, constraint)
    ids = vocabulary.tokenize_str('{"')
    assert matcher.try_consume_tokens(ids) == len(ids)
    matcher.compute_bitmask()
    assert not matcher.is_error()


def test_a_closed_checker_leaves_no_process() -> None:
    checker = GrammarChecker((MODEL_DIR / "tokenizer.json").read_text("utf-8"), 2816, frozenset([2]))
    checker.close()
    checker.check(TAKEN["anything"])
    child = checker._child
    assert child is not None
    checker.close()
    assert child.returncode == 0
