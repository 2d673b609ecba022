"""Exact bytes of server-sent events."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.schema.frames import Delta, End, Error, Frame
from app.wire import sse
from app.wire.encoder import Encoder
from app.wire.json_text import json_bytes
from tests.cases.frames import STREAM, STREAMS
from tests.cases.golden import FOLDER, golden

GOLDEN = golden()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (sse.event(b"{}"), b"data: {}\n\n"),
        (sse.event(b"{}", "st_a:3"), b"id: st_a:3\ndata: {}\n\n"),
        (sse.event(b"{}", None, "error"), b"event: error\ndata: {}\n\n"),
        (sse.event(b"{}", "7", "error"), b"id: 7\nevent: error\ndata: {}\n\n"),
        (sse.event(b""), b"data: \n\n"),
        (sse.comment("all well"), b": all well\n"),
        (sse.comment("two\r\nlines\x00\u2028here"), b": two lines here\n"),
        (sse.HEARTBEAT, b": ping\n\n"),
        (sse.DONE, b"data: [DONE]\n\n"),
    ],
)
def test_events_and_comments(written: bytes, expected: bytes) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("data", "event_id", "event_name"),
    [
        (b"a\nb", None, None),
        (b"a\rb", None, None),
        (b"", "a\nb", None),
        (b"", "a\0b", None),
        (b"", None, "a\rb"),
    ],
)
def test_a_line_break_would_end_the_line(data: bytes, event_id: str | None, event_name: str | None) -> None:
    with pytest.raises(ValueError, match="one line"):
        sse.event(data, event_id, event_name)


def test_a_stream_id_is_one_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        sse.NativeSseEncoder("st_a\n")


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name: str) -> None:
    assert GOLDEN[name] == (FOLDER / name).read_bytes()


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(GOLDEN)


def test_the_encoder_says_what_it_is() -> None:
    encoder: Encoder = sse.NativeSseEncoder(STREAM)
    assert encoder.media_type == "text/event-stream; charset=utf-8"
    assert encoder.heartbeat == b": ping\n\n"
    assert encoder.encode([]) == b""


FRAMES = [frame for frames in STREAMS.values() for frame in frames]
DELTAS = st.builds(
    Delta,
    cursor=st.from_regex(r"\A[0-9]{1,5}(\.[0-9]{1,5}){0,2}\Z"),
    index=st.integers(0, 7),
    text=st.text(),
    tokens=st.integers(1, 1000),
    token_ids=st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=3),
)


def expected(frame: Frame) -> bytes:
    end = ":end" if isinstance(frame, End | Error) else ""
    return sse.event(json_bytes(frame), f"{STREAM}:{frame.cursor}{end}")


@pytest.mark.parametrize("frame", FRAMES)
def test_every_frame_is_an_event_with_its_id(frame: Frame) -> None:
    assert sse.NativeSseEncoder(STREAM).encode([frame]) == expected(frame)


@given(st.lists(DELTAS, max_size=5))
def test_the_template_writes_what_the_json_encoder_writes(deltas: list[Delta]) -> None:
    written = sse.NativeSseEncoder(STREAM).encode(deltas)
    assert written == b"".join(map(expected, deltas))
    data = [line.removeprefix(b"data: ") for line in written.split(b"\n") if line.startswith(b"data: ")]
    assert [msgspec.json.decode(line, type=Delta) for line in data] == deltas
