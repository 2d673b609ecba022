"""Frames as protocol buffers: nothing is lost on the way there and back, and the bytes are what they are."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidCursor, InvalidRequest, Overloaded, ServiceError
from app.proto import generation_pb2 as pb
from app.schema.client_messages import MESSAGE_TYPES
from app.schema.frames import (
    ChoiceEnd,
    Delta,
    End,
    Error,
    ErrorDetail,
    Frame,
    Logprob,
    Start,
    Timings,
    TopLogprob,
    Usage,
)
from app.schema.server_messages import Addressed, Pong, error_reply
from app.streams.status import StreamStatus
from app.wire.grpc import (
    to_addressed_message,
    to_body,
    to_cancel_reply,
    to_client_message,
    to_message,
    to_status,
)
from tests.cases.frames import STREAMS
from tests.fakes.grpc_frames import to_frame

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
COUNT = st.integers(0, 2**31 - 1)
NUMBER = st.floats(allow_nan=False)
CURSOR = st.lists(COUNT, min_size=1, max_size=3).map(lambda counts: ".".join(map(str, counts)))
BYTES = st.none() | st.binary(max_size=4).map(list)
LOGPROBS = st.builds(
    Logprob, TEXT, NUMBER, BYTES, st.lists(st.builds(TopLogprob, TEXT, NUMBER, BYTES), max_size=3)
)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Start, CURSOR, TEXT, TEXT, COUNT, st.integers(-(2**63), 2**63 - 1), COUNT),
    st.builds(
        Delta,
        CURSOR,
        st.integers(0, 7),
        TEXT,
        COUNT,
        st.none() | st.lists(COUNT, min_size=1, max_size=3),
        st.none() | st.lists(LOGPROBS, min_size=1, max_size=3),
        st.booleans(),
    ),
    st.builds(
        End,
        CURSOR,
        st.lists(
            st.builds(
                ChoiceEnd,
                st.integers(0, 7),
                st.sampled_from(["stop", "length", "content_filter", "cancelled"]),
                st.none() | TEXT | COUNT,
            ),
            max_size=3,
        ),
        st.builds(Usage, COUNT, COUNT, COUNT, COUNT),
        st.builds(Timings, NUMBER, st.none() | NUMBER, NUMBER, NUMBER),
        st.lists(TEXT, max_size=3),
    ),
    st.builds(Error, CURSOR, st.builds(ErrorDetail, TEXT, TEXT, TEXT, st.booleans())),
)


@given(FRAMES)
def test_a_frame_survives_the_way_there_and_back(frame: Frame) -> None:
    assert to_frame(pb.Frame.FromString(to_message(frame).SerializeToString())) == frame


@pytest.mark.parametrize("name", STREAMS)
def test_whole_streams_do(name: str) -> None:
    assert [to_frame(to_message(frame)) for frame in STREAMS[name]] == STREAMS[name]


EXPECTED: list[tuple[Frame, bytes]] = [
    (
        Start("0", "st_1", "m", 1790000000, -1, 17),
        b"\n\x010\x12\x1c\n\x04st_1\x12\x01m\x18\x80\xf7\xc4\xd5\x06 \xff\xff\xff\xff\xff\xff\xff\xff\xff\x01(\x11",
    ),
    (
        Start("0", "", "", 0, 0, 0, deterministic=True),
        b"\n\x010\x12\x020\x01",
    ),
    (Delta("3", 0, "Once", 1), b"\n\x013\x1a\x08\x12\x04Once\x18\x01"),
    (Delta("5", 0, "No", 2, steered=True), b"\n\x015\x1a\x08\x12\x02No\x18\x020\x01"),
    (
        Delta("2.4", 1, "é", 1, [7], [Logprob("é", -0.5, [195, 169], [])]),
        b'\n\x032.4\x1a\x1e\x08\x01\x12\x02\xc3\xa9\x18\x01"\x01\x07*\x11\n\x02\xc3\xa9\x11'
        b"\x00\x00\x00\x00\x00\x00\xe0\xbf\x1a\x02\xc3\xa9",
    ),
    (
        End("1", [ChoiceEnd(0, "stop", 0)], Usage(1, 1, 2), Timings(0.0, None, 0.5, 2.0), ["ab"]),
        b"\n\x011\x22\x26\n\x04\x10\x01 \x00\x12\x06\x08\x01\x10\x01\x18\x02\x1a\x12\x19\x00\x00\x00\x00\x00\x00"
        b'\xe0?!\x00\x00\x00\x00\x00\x00\x00@"\x02ab',
    ),
    (Error("1", ErrorDetail("x", "y", "z", True)), b"\n\x011*\x0d\n\x0b\n\x01x\x12\x01y\x1a\x01z \x01"),
]


@pytest.mark.parametrize(("frame", "expected"), EXPECTED)
def test_the_bytes(frame: Frame, expected: bytes) -> None:
    assert to_message(frame).SerializeToString(deterministic=True) == expected


def test_what_is_not_set_is_not_said_and_zero_is() -> None:
    assert to_body(pb.GenerateRequest()) == {}
    zeros = pb.GenerateRequest(model="", prompt="", seed=0, temperature=0, n=0, detach=False, logprobs=0)
    assert to_body(zeros) == {
        "model": "",
        "prompt": "",
        "seed": 0,
        "temperature": 0.0,
        "n": 0,
        "detach": False,
        "logprobs": 0,
    }


BODIES: list[tuple[pb.GenerateRequest, dict[str, Any]]] = [
    (
        pb.GenerateRequest(prompt_token_ids=pb.TokenIds(ids=[1, -2])),
        {"prompt_token_ids": [1, -2]},
    ),
    (pb.GenerateRequest(prompt_token_ids=pb.TokenIds()), {"prompt_token_ids": []}),
    (
        pb.GenerateRequest(
            messages=pb.Chat(
                messages=[
                    pb.ChatMessage(role="system", text=""),
                    pb.ChatMessage(
                        role="user", parts=pb.TextParts(parts=[pb.TextPart(text="a"), pb.TextPart()])
                    ),
                    pb.ChatMessage(),
                ]
            )
        ),
        {
            "messages": [
                {"role": "system", "content": ""},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]},
                {},
            ]
        },
    ),
    (pb.GenerateRequest(messages=pb.Chat()), {"messages": []}),
    (
        pb.GenerateRequest(
            messages=pb.Chat(
                messages=[
                    pb.ChatMessage(
                        role="assistant",
                        reasoning="Hm.",
                        tool_calls=[pb.ToolCall(id="1", name="f", arguments='{"a":1}'), pb.ToolCall()],
                    ),
                    pb.ChatMessage(role="tool", text="5", tool_call_id="1", name="f"),
                ]
            )
        ),
        {
            "messages": [
                {
                    "role": "assistant",
                    "reasoning": "Hm.",
                    "tool_calls": [
                        {"id": "1", "function": {"name": "f", "arguments": '{"a":1}'}},
                        {"function": {}},
                    ],
                },
                {"role": "tool", "content": "5", "tool_call_id": "1", "name": "f"},
            ]
        },
    ),
    (
        pb.GenerateRequest(
            tools=[
                pb.Tool(name="f", description="F.", parameters='{"type":"object"}', strict=False),
                pb.Tool(),
            ],
            parallel_tool_calls=False,
            include_reasoning=False,
            chat_template_kwargs='{"enable_thinking":false}',
            add_generation_prompt=False,
            continue_final_message=True,
            add_special_tokens=False,
            truncate_prompt_tokens=-1,
        ),
        {
            "tools": [
                {
                    "function": {
                        "name": "f",
                        "description": "F.",
                        "parameters": {"type": "object"},
                        "strict": False,
                    }
                },
                {"function": {}},
            ],
            "parallel_tool_calls": False,
            "include_reasoning": False,
            "chat_template_kwargs": {"enable_thinking": False},
            "add_generation_prompt": False,
            "continue_final_message": True,
            "add_special_tokens": False,
            "truncate_prompt_tokens": -1,
        },
    ),
    *(
        (pb.GenerateRequest(tool_choice=choice), {"tool_choice": said})
        for choice, said in (
            (pb.ToolChoice(), None),
            (pb.ToolChoice(mode=pb.TOOL_MODE_UNSPECIFIED), None),
            (pb.ToolChoice(mode=pb.TOOL_MODE_NONE), "none"),
            (pb.ToolChoice(mode=pb.TOOL_MODE_AUTO), "auto"),
            (pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED), "required"),
            (pb.ToolChoice(mode=77), 77),  # type: ignore[arg-type]
            (pb.ToolChoice(function="f"), {"type": "function", "function": {"name": "f"}}),
            (
                pb.ToolChoice(allowed_tools=pb.AllowedTools(names=["f"])),
                {
                    "type": "allowed_tools",
                    "allowed_tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
                },
            ),
            (
                pb.ToolChoice(allowed_tools=pb.AllowedTools(mode=pb.TOOL_MODE_REQUIRED)),
                {"type": "allowed_tools", "allowed_tools": {"tools": [], "mode": "required"}},
            ),
        )
    ),
    (
        pb.GenerateRequest(logit_bias={5: -1.5, -1: 2.0}, stop=["a", ""], stop_token_ids=[9]),
        {"logit_bias": {"5": -1.5, "-1": 2.0}, "stop": ["a", ""], "stop_token_ids": [9]},
    ),
    (pb.GenerateRequest(on_disconnect=pb.ON_DISCONNECT_CANCEL), {"on_disconnect": "cancel"}),
    (pb.GenerateRequest(on_disconnect=pb.ON_DISCONNECT_GRACE), {"on_disconnect": "grace"}),
    (pb.GenerateRequest(on_disconnect=pb.ON_DISCONNECT_CONTINUE), {"on_disconnect": "continue"}),
    (pb.GenerateRequest(on_disconnect=pb.ON_DISCONNECT_UNSPECIFIED), {}),
    (pb.GenerateRequest(on_disconnect=77), {"on_disconnect": 77}),  # type: ignore[arg-type]
    (pb.GenerateRequest(response_format=pb.ResponseFormat()), {"response_format": {}}),
    (
        pb.GenerateRequest(response_format=pb.ResponseFormat(text=pb.ResponseFormat.Text())),
        {"response_format": {"type": "text"}},
    ),
    (
        pb.GenerateRequest(response_format=pb.ResponseFormat(json_object=pb.ResponseFormat.JsonObject())),
        {"response_format": {"type": "json_object"}},
    ),
    (
        pb.GenerateRequest(
            response_format=pb.ResponseFormat(
                json_schema=pb.ResponseFormat.JsonSchema(name="b", schema='{"z":1,"a":{"maxLength":3}}')
            )
        ),
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "b", "schema": {"z": 1, "a": {"maxLength": 3}}},
            }
        },
    ),
    (
        pb.GenerateRequest(response_format=pb.ResponseFormat(json_schema=pb.ResponseFormat.JsonSchema())),
        {"response_format": {"type": "json_schema", "json_schema": {}}},
    ),
    (
        pb.GenerateRequest(response_format=pb.ResponseFormat(regex=pb.ResponseFormat.Regex(pattern="a+"))),
        {"response_format": {"type": "regex", "pattern": "a+"}},
    ),
    (
        pb.GenerateRequest(response_format=pb.ResponseFormat(regex=pb.ResponseFormat.Regex())),
        {"response_format": {"type": "regex"}},
    ),
    (
        pb.GenerateRequest(
            response_format=pb.ResponseFormat(grammar=pb.ResponseFormat.Grammar(grammar='start: "a"'))
        ),
        {"response_format": {"type": "grammar", "grammar": 'start: "a"'}},
    ),
]


@pytest.mark.parametrize(("request_", "body"), BODIES)
def test_a_request_says_what_a_json_client_would_have_said(
    request_: pb.GenerateRequest, body: dict[str, Any]
) -> None:
    assert to_body(request_) == body


@pytest.mark.parametrize("schema", ["", "{", '{"a":NaN}', '{"a":1} {}', "[" * 10_000])
def test_a_schema_that_is_no_json_is_refused_by_its_name(schema: str) -> None:
    wanted = pb.ResponseFormat(json_schema=pb.ResponseFormat.JsonSchema(schema=schema))
    with pytest.raises(InvalidRequest) as refusal:
        to_body(pb.GenerateRequest(response_format=wanted))
    assert refusal.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize("text", ["", "{", '{"a":NaN}', '{"a":1} {}', "[" * 10_000])
def test_json_in_a_field_that_is_none_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not valid JSON") as refusal:
        to_body(pb.GenerateRequest(chat_template_kwargs=text))
    assert refusal.value.param == "chat_template_kwargs"
    with pytest.raises(InvalidRequest, match="is not valid JSON") as refusal:
        to_body(pb.GenerateRequest(tools=[pb.Tool(), pb.Tool(name="f", parameters=text)]))
    assert refusal.value.param == "tools[1].function.parameters"


MESSAGES: list[tuple[pb.ClientMessage, dict[str, Any]]] = [
    (pb.ClientMessage(), {}),
    (pb.ClientMessage(ref="a", ping=pb.PingRequest()), {"type": "ping", "ref": "a"}),
    (
        pb.ClientMessage(ref="a", window=0, generate=pb.GenerateRequest(prompt="x", seed=0)),
        {"type": "generate", "ref": "a", "window": 0, "prompt": "x", "seed": 0},
    ),
    (
        pb.ClientMessage(resume=pb.ResumeRequest(stream="s", after=""), window=5),
        {"type": "resume", "stream": "s", "after": "", "window": 5},
    ),
    (pb.ClientMessage(cancel=pb.CancelRequest()), {"type": "cancel"}),
    (pb.ClientMessage(stop=pb.StopRequest(stream="s")), {"type": "stop", "stream": "s"}),
    (
        pb.ClientMessage(update=pb.UpdateRequest(stream="s", stop=["a"])),
        {"type": "update", "stream": "s", "stop": ["a"]},
    ),
    (pb.ClientMessage(update=pb.UpdateRequest(stream="s")), {"type": "update", "stream": "s", "stop": []}),
    (
        pb.ClientMessage(steer=pb.SteerRequest(stream="s", text="")),
        {"type": "steer", "stream": "s", "text": ""},
    ),
    (
        pb.ClientMessage(ack=pb.AckRequest(stream="s", cursor="3")),
        {"type": "ack", "stream": "s", "cursor": "3"},
    ),
]


@pytest.mark.parametrize(("message", "said"), MESSAGES)
def test_a_message_says_what_the_client_of_a_websocket_would_have_said(
    message: pb.ClientMessage, said: dict[str, Any]
) -> None:
    assert to_client_message(message) == said


def test_every_kind_of_message_is_tried_above() -> None:
    kinds = {message.WhichOneof("message") for message, _ in MESSAGES} - {None}
    assert kinds == set(MESSAGE_TYPES)


def test_frames_and_replies_say_whose_they_are() -> None:
    delta = Delta("1", 0, "a", 1)
    assert to_addressed_message(Addressed(delta, "st_1")) == pb.Frame(
        cursor="1", delta=pb.Delta(text="a", tokens=1), stream="st_1"
    )
    assert to_addressed_message(Addressed(Pong(), ref="r")) == pb.Frame(pong=pb.Pong(), ref="r")
    refused = to_addressed_message(Addressed(error_reply(InvalidRequest("No.", param="n")), ref="r"))
    assert refused == pb.Frame(
        refusal=pb.Refusal(
            error=pb.ErrorDetail(
                code="invalid_request", message="No.", type="invalid_request_error", param="n"
            )
        ),
        ref="r",
    )
    assert not to_addressed_message(Addressed(error_reply(Overloaded("No.")))).refusal.error.HasField("param")


def test_the_status_of_an_error() -> None:
    assert to_status(Overloaded("Full.", retry_after_s=3)) == (
        "RESOURCE_EXHAUSTED",
        "overloaded: Full.",
        [("error-code", "overloaded"), ("error-type", "server_error"), ("retry-after", "3")],
    )
    assert to_status(InvalidCursor("No.", param="after")).metadata[2] == ("error-param", "after")


def test_metadata_is_visible_ascii_whatever_the_field_is_called() -> None:
    metadata = dict(to_status(InvalidRequest("No.", param="a[0].ü\n%~\0")).metadata)
    assert metadata["error-param"] == "a[0].%C3%BC%0A%25~%00"


def every_error() -> list[type[ServiceError]]:
    found = [ServiceError]
    for error in found:
        found += error.__subclasses__()
    return found


@pytest.mark.parametrize("error", every_error())
def test_every_error_has_a_status_code_that_exists_and_is_no_success(error: type[ServiceError]) -> None:
    assert grpc.StatusCode[to_status(error("x")).code] is not grpc.StatusCode.OK


def test_the_reply_to_a_cancellation() -> None:
    ended = StreamStatus(
        "st_1", "m", 5, "ended", "2", Usage(1, 2, 3), 9, [ChoiceEnd(0, "cancelled", None)], None
    )
    assert to_cancel_reply(ended) == pb.CancelReply(
        stream="st_1",
        model="m",
        created=5,
        state="ended",
        cursor="2",
        usage=pb.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
        expires_at=9,
        choices=[pb.ChoiceEnd(finish_reason=pb.FINISH_REASON_CANCELLED)],
    )
    failed = StreamStatus(
        "st_1", "m", 5, "failed", "2", Usage(1, 2, 3), None, None, ErrorDetail("c", "m", "t", True)
    )
    reply = to_cancel_reply(failed)
    assert not reply.HasField("expires_at") and not reply.choices
    assert reply.error == pb.ErrorDetail(code="c", message="m", type="t", retryable=True)
