"""Exact text of what a WebSocket carries. Whole streams are in `tests/golden/*.websocket.jsonl`."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest, Overloaded
from app.schema.frames import Delta, Frame
from app.schema.server_messages import Addressed, Pong, error_reply
from app.wire.json_text import json_bytes
from app.wire.websocket import message_json
from tests.cases.frames import STREAM, STREAMS, start

FRAMES = [frame for frames in STREAMS.values() for frame in frames[1:]]
DELTAS = st.builds(
    Delta,
    cursor=st.from_regex(r"\A[0-9]{1,5}(\.[0-9]{1,5}){0,2}\Z"),
    index=st.integers(0, 7),
    text=st.text(),
    tokens=st.integers(1, 1000),
    token_ids=st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=3),
    steered=st.booleans(),
)
REFUSED = error_reply(InvalidRequest('n must be "at least" 1.', param="n"))
BUSY = error_reply(Overloaded("Later."))


@pytest.mark.parametrize(
    ("addressed", "written"),
    [
        (Addressed(Pong()), '{"type":"pong"}'),
        (Addressed(Pong(), ref='a"b'), '{"type":"pong","ref":"a\\"b"}'),
        (
            Addressed(BUSY),
            '{"type":"error","error":{"code":"overloaded","message":"Later.","type":"server_error",'
            '"retryable":true,"param":null}}',
        ),
        (
            Addressed(REFUSED, 'st"1', "r"),
            '{"type":"error","error":{"code":"invalid_request","message":"n must be \\"at least\\" 1.",'
            '"type":"invalid_request_error","retryable":false,"param":"n"},"stream":"st\\"1","ref":"r"}',
        ),
        (
            Addressed(start(), STREAM),
            '{"type":"start","cursor":"0","stream":"st_0123456789abcdef","model":"storyteller",'
            '"created":1790000000,"seed":1234,"prompt_tokens":17,"deterministic":true}',
        ),
        (
            Addressed(Delta("3", 1, "a\u2028é", 2), STREAM),
            '{"type":"delta","cursor":"3","index":1,"text":"a\\u2028é","tokens":2,'
            '"stream":"st_0123456789abcdef"}',
        ),
    ],
)
def test_replies_and_frames(addressed: Addressed, written: str) -> None:
    assert message_json(addressed) == written


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_is_the_same_as_elsewhere_with_its_stream_behind(frame: Frame) -> None:
    elsewhere = json_bytes(frame).decode()
    assert message_json(Addressed(frame, STREAM)) == f'{elsewhere[:-1]},"stream":"{STREAM}"}}'


@given(DELTAS)
def test_the_template_writes_what_the_json_encoder_writes(delta: Delta) -> None:
    written = message_json(Addressed(delta, STREAM))
    assert json.loads(written) == {**json.loads(msgspec.json.encode(delta)), "stream": STREAM}
    assert msgspec.json.decode(written, type=Delta) == delta


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_that_the_client_has_chosen_are_encoded(stream: str, ref: str) -> None:
    said = json.loads(message_json(Addressed(REFUSED, stream, ref)))
    assert (said["stream"], said["ref"]) == (stream, ref)
