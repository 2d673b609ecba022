"""Readers with a window: what they may take, what they hear of, and when generation waits for them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidCursor
from app.schema.frames import Delta, End, Frame
from app.streams.reader import Reader
from app.streams.stream import Stream
from app.streams.window import Window
from tests.app.streams.test_stream import deltas, feed, live, stream_of
from tests.fakes.clock import settle
from tests.fakes.generator import FakeGeneration
from tests.fakes.requests import request


def take_at_once(reader: Reader) -> list[Frame]:
    """Has the reader take whatever it is told of, into the list that is returned."""
    taken: list[Frame] = []
    reader.on_ready = lambda: taken.extend(reader.take())
    return taken


def generation_of(stream: Stream) -> FakeGeneration:
    generation = FakeGeneration.__new__(FakeGeneration)
    generation.calls = []
    generation.steerings = []
    stream.accept(generation)
    return generation


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=5), st.integers(1, 60)
)
def test_a_window_is_shared_fairly_and_never_exceeded(ahead: list[tuple[int, int]], tokens: int) -> None:
    positions = [begin for begin, _ in ahead]
    ends = [begin + count for begin, count in ahead]
    window = Window(positions, tokens)
    reached = window.reach(positions, ends)
    taken = [end - begin for begin, end in zip(positions, reached, strict=True)]
    assert sum(taken) == min(tokens, sum(count for _, count in ahead))
    cut = [index for index, (_, count) in enumerate(ahead) if taken[index] < count]
    for index in cut:
        assert taken[index] >= max(taken) - 1


def test_a_window_lets_no_more_through_than_was_acknowledged() -> None:
    def test() -> None:
        stream = stream_of(request(), window_tokens=100)
        reader = stream.readers.join(window_tokens=3)
        told: list[list[Frame]] = []
        reader.on_ready = lambda: told.append(reader.take())
        for position, letter in enumerate("abcdefg"):
            feed(stream, letter, position)
        assert [deltas(frames) for frames in told] == [
            [("1", 0, "a", 1)],
            [("2", 0, "b", 1)],
            [("3", 0, "c", 1)],
        ]
        assert reader.take() == []
        reader.acknowledge("2")
        assert deltas(told[-1]) == [("5", 0, "de", 2)]
        reader.acknowledge("1")
        assert len(told) == 4
        reader.acknowledge("5")
        assert deltas(told[-1]) == [("7", 0, "fg", 2)]

    live(test)


def test_the_terminal_frame_comes_when_all_before_it_may() -> None:
    def test() -> None:
        stream = stream_of(request())
        reader = stream.readers.join(window_tokens=2)
        feed(stream, "abcd", 0, finish="length")
        assert deltas(reader.take()) == [("2", 0, "ab", 2)]
        reader.acknowledge("1")
        assert deltas(reader.take()) == [("3", 0, "c", 1)]
        reader.acknowledge("2")
        frames = reader.take()
        # The window is shut again, but nothing is left that it could hold back.
        assert deltas(frames) == [("4", 0, "d", 1)]
        assert isinstance(frames[-1], End) and reader.ended
        reader.acknowledge("4")

    live(test)


def test_a_reader_that_is_at_the_end_of_its_window_hears_of_the_end() -> None:
    def test() -> None:
        stream = stream_of(request())
        reader = stream.readers.join(window_tokens=2)
        told: list[list[Frame]] = []
        reader.on_ready = lambda: told.append(reader.take())
        feed(stream, "ab", 0)
        stream.cancel()
        assert [type(frame) for frame in told[-1]] == [End]

    live(test)


@pytest.mark.parametrize("cursor", ["3", "x", "1.1"])
def test_only_what_was_taken_can_be_acknowledged(cursor: str) -> None:
    def test() -> None:
        stream = stream_of(request())
        for window_tokens in (2, None):
            reader = stream.readers.join(window_tokens=window_tokens)
            feed(stream, "abcd", 0)
            if window_tokens is not None:
                reader.take()
            with pytest.raises(InvalidCursor):
                reader.acknowledge(cursor)

    live(test)


def test_the_choices_share_a_window() -> None:
    def test() -> None:
        stream = stream_of(request(n=2))
        reader = stream.readers.join(window_tokens=6)
        feed(stream, "abcdefgh", 0, choice=0)
        feed(stream, "xy", 0, choice=1)
        assert deltas(reader.take()) == [("4.0", 0, "abcd", 4), ("4.2", 1, "xy", 2)]
        feed(stream, "z", 2, choice=1)
        reader.acknowledge("1.1")
        assert deltas(reader.take()) == [("5.2", 0, "e", 1), ("5.3", 1, "z", 1)]

    live(test)


def test_generation_pauses_while_the_window_is_shut() -> None:
    def test() -> None:
        stream = stream_of(request())
        generation = generation_of(stream)
        reader = stream.readers.join(window_tokens=2)
        take_at_once(reader)
        feed(stream, "a", 0)
        assert generation.calls == []
        feed(stream, "b", 1)
        assert generation.calls == ["pause"]
        feed(stream, "c", 2)  # was under way
        reader.acknowledge("1")
        assert generation.calls == ["pause"]
        reader.acknowledge("2")
        assert generation.calls == ["pause", "resume"]

    live(test)


def test_generation_goes_on_for_a_reader_whose_window_is_open() -> None:
    def test() -> None:
        stream = stream_of(request())
        generation = generation_of(stream)
        shut = stream.readers.join(window_tokens=1)
        other = stream.readers.join()
        for reader in (shut, other):
            take_at_once(reader)
        feed(stream, "a", 0)
        feed(stream, "b", 1)
        assert generation.calls == []
        other.close()
        assert generation.calls == ["pause"]
        shut.close()
        assert generation.calls == ["pause", "resume"]

    live(test)


def test_text_that_is_held_back_does_not_shut_a_window_for_ever() -> None:
    def test() -> None:
        stream = stream_of(request(stop=("abcdef",)))
        generation = generation_of(stream)
        reader = stream.readers.join(window_tokens=2)
        told = take_at_once(reader)
        feed(stream, "a", 0)
        feed(stream, "b", 1)
        assert deltas(told) == [("2", 0, "", 2)]
        reader.acknowledge("2")
        assert generation.calls == ["pause", "resume"]
        feed(stream, "x", 2)
        assert deltas(told)[1:] == [("3", 0, "abx", 1)]

    live(test)


def test_text_that_is_held_back_for_longer_than_the_streams_window_does_not_stop_generation() -> None:
    def test() -> None:
        stream = stream_of(request(stop=("abcdefghijkl",)), window_tokens=8)
        generation = generation_of(stream)
        reader = stream.readers.join()
        told = take_at_once(reader)
        for position, letter in enumerate("abcdefghijx"):
            feed(stream, letter, position)
        assert generation.calls == ["pause", "resume"]
        assert "".join(frame.text for frame in told if isinstance(frame, Delta)) == "abcdefghijx"

    live(test)


def test_a_reader_with_a_window_in_pull_style() -> None:
    async def main() -> None:
        stream = stream_of(request())
        reader = stream.readers.join(window_tokens=2)
        seen: list[Frame] = []

        async def read() -> None:
            async for frame in reader.frames():
                seen.append(frame)

        reading = asyncio.ensure_future(read())
        await settle()
        feed(stream, "abcd", 0, finish="length")
        await settle()
        assert deltas(seen) == [("2", 0, "ab", 2)] and not reading.done()
        reader.acknowledge("2")
        await reading
        assert deltas(seen)[1:] == [("4", 0, "cd", 2)]

    asyncio.run(main())


def test_a_silent_last_token_keeps_the_terminal_frame_from_nobody() -> None:
    def test() -> None:
        stream = stream_of(request())
        reader = stream.readers.join(window_tokens=2)
        feed(stream, "ab", 0)
        assert deltas(reader.take()) == [("2", 0, "ab", 2)]
        feed(stream, "c", 2, finish="stop")
        [end] = reader.take()
        assert isinstance(end, End) and end.cursor == "3"
        again = stream.readers.join("3", window_tokens=1)
        assert again.take() == [end]

    live(test)
