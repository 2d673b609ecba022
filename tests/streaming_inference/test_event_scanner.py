"""Server-sent events read back: after the standard, however they are cut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streaming_inference.event_scanner import EventScanner, EventTooLarge

cuts = st.lists(st.integers(0, 200), max_size=8)
# Bytes that mean something, so that chance makes streams worth reading.
streams = st.lists(
    st.sampled_from(
        [b"data", b":", b" ", b"\n", b"\r", b"\r\n", b"id", b"a", b"\xef\xbb\xbf", b"data: x\n\n"]
    ),
    max_size=30,
).map(b"".join)


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def as_the_standard_says(stream: bytes) -> list[bytes]:
    """The algorithm of the standard, step by step, over a whole stream."""
    found: list[bytes] = []
    data = b""
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in lines[:-1]:  # what follows the last line ending is not a line
        if line == b"":
            if data:
                found.append(data.removesuffix(b"\n"))
            data = b""
        field, _, value = line.partition(b":")
        if field == b"data":
            data += value.removeprefix(b" ") + b"\n"
    return found


@given(stream=streams, cuts=cuts)
@example(stream=b"\xef\xbb\xbfdata: x\r\n\r\n", cuts=[1, 2, 12, 13])
@example(stream=b"data\ndata: x\n\n", cuts=[])
def test_any_cut_of_any_stream_is_read_as_the_standard_says(stream: bytes, cuts: list[int]) -> None:
    scanner = EventScanner()
    found = [event for piece in pieces_of(stream, cuts) for event in scanner.feed(piece)]
    # A return at the very end could be the first half of a line ending, which the next byte tells.
    found += scanner.feed(b":")
    assert found == as_the_standard_says(stream + b":")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data\n\n", [b""]),
        (b"data:\n\n", [b""]),
        (b"id: s:1\ndata: a\n\n", [b"a"]),
        (b"data: a\nid: s:1\n\n", [b"a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"\n\n\ndata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b": ping\n\n", []),
        (b"event: x\n\n", []),
        (b"metadata: a\n\n", []),
        (b"x: data: a\n\n", []),
        (b"data: a\n\ndata: b\n\ndata: c", [b"a", b"b"]),
    ],
)
def test_fields(written: bytes, found: list[bytes]) -> None:
    assert EventScanner().feed(written) == found


def test_an_event_has_a_bound() -> None:
    scanner = EventScanner(max_event_bytes=10)
    assert scanner.feed(b"data: 1234") == []
    with pytest.raises(EventTooLarge, match="larger than 10 bytes"):
        scanner.feed(b"5")
