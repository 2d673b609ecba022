"""Counting tokens by looking at bytes, and judging whole streams. The native frames come from the project's own encoder."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.schema.frames import ChoiceEnd, Delta, End, Error, ErrorDetail, Frame, Start, Timings, Usage
from app.wire.sse import NativeSseEncoder
from benchmarks.serve.dialects import ChatDialect, NativeDialect, PlainDialect, Verdict, prompt_of
from benchmarks.serve.workload import Endpoint, Workload
from streaming_inference.event_scanner import EventScanner

ENDPOINT = Endpoint(port=80, path="/", dialect="native", model="m")
WORKLOAD = Workload(clients=1, requests=1, tokens=5, prompt_tokens=3)
UNTIL_EOS = Workload(clients=1, requests=1, tokens=5, ignore_eos=False)
START = Start("0", "st_a", "m", 1, 2, 3)
NATIVE = NativeDialect()
CHAT = ChatDialect()
PLAIN = PlainDialect()


def events_of(*frames: Frame) -> list[bytes]:
    return EventScanner().feed(NativeSseEncoder("st_a").encode(frames))


def end(text: str, tokens: int) -> End:
    usage = Usage(prompt_tokens=3, completion_tokens=tokens, total_tokens=tokens + 3)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return End(str(tokens), [ChoiceEnd(0, "length", None)], usage, Timings(0.1, 1.0, 2.0, 3.0), [digest])


GOOD = (START, Delta("2", 0, "On", 2), Delta("5", 0, "ce", 3), end("Once", 5))


@given(text=st.text(max_size=20), tokens=st.integers(1, 10_000))
def test_native_tokens_whatever_the_text(text: str, tokens: int) -> None:
    (event,) = events_of(Delta("1", 0, text, tokens))
    assert NATIVE.tokens_in(event) == tokens


def test_native_events_without_tokens() -> None:
    assert [NATIVE.tokens_in(event) for event in events_of(*GOOD)] == [0, 2, 3, 0]
    (with_ids,) = events_of(Delta("7", 0, '"tokens":9', 4, [1, 2, 3, 4]))
    assert NATIVE.tokens_in(with_ids) == 4
    assert NATIVE.tokens_in(b'{"type":"delta"}') == 0


def test_a_native_stream_that_is_right() -> None:
    assert NATIVE.verdict(events_of(*GOOD), WORKLOAD, 5) == Verdict(None, 5)
    assert NATIVE.verdict(events_of(START, end("", 0)), UNTIL_EOS, 5) == Verdict(None, 0)


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        ((), "no start"),
        (GOOD[1:], "no start"),
        (GOOD[:-1], "not start, deltas, end"),
        ((*GOOD, GOOD[-1]), "not start, deltas, end"),
        ((START, *GOOD), "not start, deltas, end"),
        ((*GOOD[:2], Error("2", ErrorDetail("internal", "x", "server_error", False))), "error internal"),
        ((START, GOOD[2], GOOD[3]), "the cursor 5 follows 3"),
        ((START, Delta("5", 0, "once", 5), end("Once", 5)), "text_sha256"),
        ((START, Delta("4", 0, "Once", 4), end("Once", 4)), "4 tokens came, 4 were counted, 5 asked for"),
        ((START, Delta("6", 0, "Once", 6), end("Once", 5)), "6 tokens came, 5 were counted"),
    ],
)
def test_native_streams_that_are_wrong(frames: tuple[Frame, ...], problem: str) -> None:
    found = NATIVE.verdict(events_of(*frames), WORKLOAD, 5).problem
    assert found is not None and problem in found


def chunk(delta: dict[str, Any] | None, finish_reason: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return msgspec.json.encode({"object": "chat.completion.chunk", "choices": choices} | more)


def test_chat_chunks() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    events = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "On"}),
        chunk({"content": '"content":""'}),
        chunk({}, "length"),
        chunk(None, usage=usage),
        b"[DONE]",
    ]
    assert [CHAT.tokens_in(event) for event in events] == [0, 1, 1, 0, 0, 0]
    assert CHAT.verdict(events, WORKLOAD, 5) == Verdict(None, 5)
    assert CHAT.verdict(events, WORKLOAD, 6).problem == "5 tokens were counted, 6 asked for"
    assert CHAT.verdict(events[:3], WORKLOAD, 5).problem == "no chunk has a finish_reason"
    assert (
        CHAT.verdict([*events[:2], b'{"error":{"message":"x"}}'], WORKLOAD, 5).problem
        == "ended with an error chunk"
    )


def test_plain_events() -> None:
    events = [b" word"] * 5 + [b"[DONE]"]
    assert [PLAIN.tokens_in(event) for event in events] == [1, 1, 1, 1, 1, 0]
    assert PLAIN.verdict(events, WORKLOAD, 5) == Verdict(None)
    assert PLAIN.verdict(events, WORKLOAD, 6).problem == "5 tokens came, 6 asked for"
    assert PLAIN.verdict(events[:-1], WORKLOAD, 5).problem == "the last event is not [DONE]"
    assert PLAIN.verdict([], WORKLOAD, 5).problem == "the last event is not [DONE]"


def test_bodies() -> None:
    assert NATIVE.body(ENDPOINT, WORKLOAD, 0, 5) == {
        "model": "m",
        "prompt": "Tell me a",
        "max_tokens": 5,
        "ignore_eos": True,
        "stream": True,
    }
    first, second = (CHAT.body(ENDPOINT, UNTIL_EOS, number, 5) for number in (0, 1))
    assert first["messages"] != second["messages"]
    assert "ignore_eos" not in first and CHAT.body(ENDPOINT, WORKLOAD, 0, 5)["ignore_eos"] is True
    assert PLAIN.body(ENDPOINT, WORKLOAD, 0, 7) == {"prompt": "Tell me a", "max_tokens": 7}


def test_prompts_have_a_word_for_each_token() -> None:
    assert len(prompt_of(100).split()) == 100
