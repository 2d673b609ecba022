"""The load client's view of HTTP/1.1 and of server-sent events, cut anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serve.response import MalformedResponse, ResponseParser

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"

lines = st.binary(max_size=12).map(lambda raw: raw.replace(b"\r", b"_").replace(b"\n", b"_"))


def chunked(pieces: Sequence[bytes]) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def parse(pieces: Sequence[bytes]) -> tuple[ResponseParser, list[bytes]]:
    parser = ResponseParser()
    return parser, [event for piece in pieces for event in parser.feed(piece)]


@given(
    events=st.lists(st.lists(lines, min_size=1, max_size=3), max_size=6),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    chunk_cuts=st.lists(st.integers(0, 500), max_size=6),
    read_cuts=st.lists(st.integers(0, 1000), max_size=12),
)
def test_any_cut_of_chunks_and_reads_gives_the_same_events(
    events: list[list[bytes]], newline: bytes, chunk_cuts: list[int], read_cuts: list[int]
) -> None:
    written = b"".join(b"".join(b"data: " + line + newline for line in event) + newline for event in events)
    response = chunked(pieces_of(written, chunk_cuts))
    parser, found = parse(pieces_of(response, read_cuts))
    assert found == [b"\n".join(event) for event in events]
    assert parser.complete and parser.keep_alive and parser.status == 200


def test_bodies_with_a_length() -> None:
    parser, events = parse([HEAD + b"Content-Length: 9\r\n\r\ndata", b": a\n\n"])
    assert events == [b"a"] and parser.complete and parser.keep_alive


def test_an_empty_body() -> None:
    parser, events = parse([HEAD + b"Content-Length: 0\r\n\r\n"])
    assert events == [] and parser.complete


def test_a_body_until_the_connection_closes() -> None:
    parser, events = parse([HEAD + b"\r\ndata: a\n\n"])
    assert events == [b"a"] and not parser.complete and not parser.keep_alive
    assert parser.end_of_input() and parser.complete


def test_a_close_in_mid_body_is_no_end() -> None:
    parser, _ = parse([chunked([b"data: a\n\n"])[:-5]])
    assert not parser.end_of_input() and not parser.complete


def test_an_error_response_has_no_events_and_keeps_the_beginning_of_its_body() -> None:
    response = (
        b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 10\r\n\r\ndata: a\n\n\n"
    )
    parser, events = parse([response])
    assert (events, parser.status, parser.error_body) == ([], 503, b"data: a\n\n\n")
    assert parser.complete and not parser.keep_alive


def test_chunk_extensions_and_trailers() -> None:
    response = HEAD + b"Transfer-Encoding: chunked\r\n\r\n9;x=1\r\ndata: a\n\n\r\n0\r\nTrailer: 1\r\n\r\n"
    parser, events = parse([response])
    assert events == [b"a"] and parser.complete


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\n\r\nab",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        chunked([b"a"]) + b"b",
        b"H" * 70_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 5_000,
        HEAD + b"\r\ndata: " + b"a" * 1_100_000,
    ],
)
def test_what_is_no_response_is_refused(response: bytes) -> None:
    with pytest.raises(MalformedResponse):
        ResponseParser().feed(response)
