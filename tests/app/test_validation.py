"""Every refusal names the field as the client wrote it, in words for people."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.errors import InvalidRequest
from app.schema.native import StreamBody
from app.schema.openai import ChatCompletionBody, CompletionBody
from app.settings import LimitsSettings
from app.validation import parse_body, parse_object
from tests.cases import validation as cases

BodyType = type[StreamBody] | type[ChatCompletionBody] | type[CompletionBody]
LIMITS = LimitsSettings()
BODIES: dict[str, BodyType] = {"native": StreamBody, "chat": ChatCompletionBody, "completion": CompletionBody}
REFUSED = [
    pytest.param(BODIES[dialect], case, id=f"{dialect}-{case.name}")
    for dialect, table in (("native", cases.NATIVE), ("chat", cases.CHAT), ("completion", cases.COMPLETION))
    for case in table
]
# Words of the libraries underneath, which no client should read.
INTERNALS = (
    "pydantic",
    "Input should",
    "Value error",
    "Extra inputs",
    "tagged-union",
    "function-",
    "http",
    "is not valid.",
)


@pytest.mark.parametrize(("body_type", "case"), REFUSED)
def test_a_wrong_body_is_refused_by_the_name_of_its_field(body_type: BodyType, case: cases.Refused) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_object(body_type, case.body).to_request(LIMITS, "storyteller")
    assert refusal.value.param == case.param
    assert case.message in refusal.value.message
    assert not any(word in refusal.value.message for word in INTERNALS)


@pytest.mark.parametrize(("body_type", "case"), REFUSED)
def test_the_same_body_as_json_is_refused_the_same_way(body_type: BodyType, case: cases.Refused) -> None:
    raw = json.dumps(case.body).encode()
    with pytest.raises(InvalidRequest) as refusal:
        parse_body(body_type, raw).to_request(LIMITS, "storyteller")
    if b"Infinity" in raw or b"NaN" in raw or b"\\ud800" in raw:
        assert "is not valid JSON" in refusal.value.message
    else:
        assert refusal.value.param == case.param


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"prompt":"a",}',
        b'{"prompt":"a","temperature":NaN}',
        b"\xff\xfe",
        b'{"prompt":"\\ud800"}',
        b"[" * 100_000,
        b'{"prompt":"a"} {"prompt":"b"}',
    ],
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^The body is not valid JSON( \(at line \d+ column \d+\))?\.$"):
        parse_body(StreamBody, raw)


@pytest.mark.parametrize("raw", [b"null", b"5", b'"prompt"', b"[]", b"[[]]", b"true"])
def test_json_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^The body must be a JSON object\.$"):
        parse_body(StreamBody, raw)


def test_a_number_that_overflows_is_not_finite() -> None:
    with pytest.raises(InvalidRequest, match="temperature must be a finite number"):
        parse_body(StreamBody, b'{"prompt":"a","temperature":1e999}')


def test_a_long_field_name_is_cut() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_object(StreamBody, {"k" * 1000: 1})
    assert refusal.value.param == "k" * 128
    assert len(refusal.value.message) < 200


@pytest.mark.parametrize(
    ("body_type", "body"),
    [
        (StreamBody, {"prompt_token_ids": ["a"] * 100_000}),
        (StreamBody, {f"k{i}": 1 for i in range(50_000)}),
        (StreamBody, {"prompt": "a", "logit_bias": {f"k{i}": 1 for i in range(50_000)}}),
        (StreamBody, {"messages": [{}] * 100_000}),
        (StreamBody, {"messages": [{"role": "user", "content": "a", **{f"k{i}": 1 for i in range(50_000)}}]}),
        (ChatCompletionBody, {"messages": [{"role": "user", "content": [{}] * 100_000}]}),
        (CompletionBody, {"prompt": [["a"] * 100_000]}),
    ],
)
def test_many_mistakes_are_not_all_reported_inside(body_type: BodyType, body: dict[str, Any]) -> None:
    """Half a million error reports would hold up every stream of the process for seconds."""
    with pytest.raises(ValidationError) as report:
        body_type.model_validate(body)
    assert report.value.error_count() < 10


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("body_type", BODIES.values())
@given(data=st.data())
def test_any_value_in_any_field_is_taken_or_refused_in_words(
    body_type: BodyType, data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(sorted(body_type.model_fields)))
    value = data.draw(JSON_VALUES)
    prompt: dict[str, Any] = (
        {"messages": cases.MESSAGES} if body_type is ChatCompletionBody else {"prompt": "a"}
    )
    try:
        request = parse_object(body_type, prompt | {field: value}).to_request(LIMITS, "storyteller")
    except InvalidRequest as refusal:
        assert refusal.param
        assert refusal.param.startswith(field) or field in (
            "prompt",
            "messages",
            "prompt_token_ids",
            "max_tokens",
        )
        assert not any(word in refusal.message for word in INTERNALS)
    else:
        assert math.isfinite(request.sampling.temperature)
