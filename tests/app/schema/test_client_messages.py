"""Messages of a conversation: what is taken, what is refused and by which name. Bodies of `generate` are also run through
`tests/cases/validation.py`, as those of HTTP requests are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.schema.client_messages import (
    MESSAGE_TYPES,
    Ack,
    Cancel,
    ClientMessage,
    Generate,
    Ping,
    Resume,
    Steer,
    Stop,
    Update,
)
from app.schema.native import StreamBody
from app.settings import LimitsSettings
from app.validation import parse_message
from tests.cases import validation as cases

S = "st_1"
TYPES = "generate, stop, update, steer, resume, ack, cancel, ping"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"type": "stop", "stream": S}, Stop(type="stop", stream=S)),
        ({"type": "cancel", "stream": S, "ref": "r"}, Cancel(type="cancel", stream=S, ref="r")),
        ({"type": "update", "stream": S, "stop": "a"}, Update(type="update", stream=S, stop=["a"])),
        (
            {"type": "update", "stream": S, "stop": ["a", "b"]},
            Update(type="update", stream=S, stop=["a", "b"]),
        ),
        ({"type": "steer", "stream": S, "text": " but"}, Steer(type="steer", stream=S, text=" but")),
        ({"type": "resume", "stream": S}, Resume(type="resume", stream=S)),
        (
            {"type": "resume", "stream": S, "after": "3", "window": 8},
            Resume(type="resume", stream=S, after="3", window=8),
        ),
        ({"type": "resume", "stream": S, "after": None}, Resume(type="resume", stream=S)),
        ({"type": "ack", "stream": S, "cursor": "1.2"}, Ack(type="ack", stream=S, cursor="1.2")),
        ({"type": "ping"}, Ping(type="ping")),
    ],
)
def test_what_is_understood(said: dict[str, Any], message: ClientMessage) -> None:
    assert parse_message(said) == message


@pytest.mark.parametrize(
    ("said", "param", "message"),
    [
        ([1], None, "must be a JSON object"),
        (None, None, "must be a JSON object"),
        ({}, "type", "type is required."),
        ({"type": None}, "type", "type is required."),
        ({"type": "sing"}, "type", f"type must be one of {TYPES}."),
        ({"type": 5}, "type", f"type must be one of {TYPES}."),
        ({"type": ["stop"]}, "type", f"type must be one of {TYPES}."),
        ({"type": "stop"}, "stream", "stream is required."),
        ({"type": "stop", "stream": None}, "stream", "stream is required."),
        ({"type": "stop", "stream": 5}, "stream", "stream must be a string."),
        ({"type": "stop", "stream": ""}, "stream", "stream must not be empty."),
        ({"type": "stop", "stream": "s" * 129}, "stream", "at most 128 characters"),
        ({"type": "stop", "stream": S, "stop": ["a"]}, "stop", "stop is not a field of this request."),
        ({"type": "stop", "stream": S, "ref": 1}, "ref", "ref must be a string."),
        ({"type": "update", "stream": S}, "stop", "stop is required."),
        ({"type": "update", "stream": S, "stop": []}, "stop", "stop must not be empty."),
        ({"type": "update", "stream": S, "stop": ["a"] * 257}, "stop", "at most 256 entries"),
        ({"type": "update", "stream": S, "stop": [""]}, "stop", "must not be empty"),
        ({"type": "steer", "stream": S}, "text", "text is required."),
        ({"type": "steer", "stream": S, "text": ""}, "text", "text must not be empty."),
        ({"type": "steer", "stream": S, "text": "\ud800"}, "text", "must be valid Unicode"),
        ({"type": "steer", "stream": S, "text": "a" * 65_537}, "text", "at most 65536 characters"),
        ({"type": "resume", "stream": S, "after": 3}, "after", "after must be a string."),
        ({"type": "resume", "stream": S, "window": 0}, "window", "window must be at least 1, not 0."),
        ({"type": "ack", "stream": S}, "cursor", "cursor is required."),
        ({"type": "ack", "stream": S, "cursor": 3}, "cursor", "cursor must be a string."),
        ({"type": "generate", "prompt": "a", "window": 0}, "window", "window must be at least 1, not 0."),
        ({"type": "generate", "prompt": "a", "window": "8"}, "window", "window must be an integer."),
        ({"type": "generate", "prompt": "a", "ref": ""}, "ref", "ref must not be empty."),
        ({"type": "generate", "prompt": "a", "ref": "r" * 129}, "ref", "at most 128 characters"),
    ],
)
def test_what_is_refused_is_named(said: object, param: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_message(said)
    assert refused.value.param == param
    assert message in refused.value.message


@pytest.mark.parametrize("case", [case for case in cases.NATIVE if isinstance(case.body, dict)])
def test_generate_refuses_what_the_body_of_a_post_does(case: cases.Refused) -> None:
    with pytest.raises(InvalidRequest) as refused:
        message = parse_message({**case.body, "type": "generate", "ref": "r"})
        assert isinstance(message, Generate)
        message.to_request(LimitsSettings(), "storyteller")
    assert refused.value.param == case.param
    assert case.message in refused.value.message


def test_generate_has_every_field_of_the_body() -> None:
    assert set(Generate.model_fields) == {*StreamBody.model_fields, "type", "ref", "window"}
    fields = {"prompt": "a", "max_tokens": 3, "stop": "x", "on_disconnect": "cancel"}
    message = parse_message({"type": "generate", "ref": "r", "window": 2, **fields})
    assert isinstance(message, Generate)
    of_body = StreamBody.model_validate(fields).to_request(LimitsSettings(), "m")
    assert message.to_request(LimitsSettings(), "m") == of_body


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from("stream stop text after window cursor ref prompt n messages logit_bias".split())


@given(st.sampled_from(list(MESSAGE_TYPES)), st.dictionaries(FIELDS, VALUES, max_size=5))
def test_nothing_else_ever_happens(kind: str, fields: dict[str, Any]) -> None:
    try:
        message = parse_message({**fields, "type": kind})
    except InvalidRequest as error:
        assert error.message.endswith(".")
    else:
        assert isinstance(message, MESSAGE_TYPES[kind])
