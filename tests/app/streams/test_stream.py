"""Streams and readers: cursors, coalescing, several choices, duplicates and gaps, backpressure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidCursor
from app.schema.frames import Delta, End, Frame
from app.schema.requests import GenerationRequest
from app.schema.tokens import TokenBatch, TokenLogprob
from app.streams.choice import Choice
from app.streams.reader import Reader
from app.streams.store import StreamRecord
from app.streams.stream import Stream
from app.text.logprobs import LogprobWriter
from app.text.pipeline import ChoiceText
from tests.fakes.clock import FakeClock, settle
from tests.fakes.generator import FakeGeneration, encode, letters
from tests.fakes.requests import request

LETTERS = letters()


def stream_of(
    asked: GenerationRequest,
    window_tokens: int = 8,
    on_left: Callable[[Stream], None] = lambda stream: None,
) -> Stream:
    write_logprobs = LogprobWriter(LETTERS).write_all
    stream = Stream(
        StreamRecord(
            id="st_1",
            owner="",
            request=asked,
            prompt=[104, 101, 108, 108, 111],
            sampling=asked.sampling,
            created_s=1_790_000_000.0,
        ),
        [
            Choice(ChoiceText(LETTERS, [104], asked.stop, asked.sampling.min_tokens), write_logprobs)
            for _ in range(asked.n)
        ],
        began_s=0.0,
        clock=FakeClock(),
        window_tokens=window_tokens,
        on_changed=lambda stream: None,
        on_left=on_left,
    )
    stream.produce_here()
    return stream


def live(test: Callable[[], None]) -> None:
    async def main() -> None:
        test()
        await settle()

    asyncio.run(main())


def feed(stream: Stream, text: str, position: int, choice: int = 0, finish: str | None = None) -> None:
    stream.feed(TokenBatch(1, choice, position, encode(text), finish))  # type: ignore[arg-type]


def deltas(frames: list[Frame]) -> list[tuple[str, int, str, int]]:
    return [(f.cursor, f.index, f.text, f.tokens) for f in frames if isinstance(f, Delta)]


def test_what_is_ready_at_once_is_one_delta() -> None:
    def test() -> None:
        stream = stream_of(request())
        reader = stream.readers.join()
        reader.take()
        feed(stream, "a", 0)
        assert deltas(reader.take()) == [("1", 0, "a", 1)]
        feed(stream, "b", 1)
        feed(stream, "cd", 2)
        assert deltas(reader.take()) == [("4", 0, "bcd", 3)]
        assert reader.take() == []

    live(test)


def test_choices_have_their_own_counts_in_the_cursor() -> None:
    def test() -> None:
        stream = stream_of(request(n=3))
        reader = stream.readers.join()
        feed(stream, "ab", 0, choice=0)
        feed(stream, "xyz", 0, choice=2)
        assert deltas(reader.take()) == [("2.0.0", 0, "ab", 2), ("2.0.3", 2, "xyz", 3)]
        feed(stream, "c", 2, choice=0, finish="stop")
        feed(stream, "m", 0, choice=1, finish="length")
        assert stream.ending is None
        feed(stream, "!", 3, choice=2, finish="length")
        frames = reader.take()
        # The token that stopped choice 0 has no text and waits for company; the terminal frame counts it.
        assert deltas(frames) == [("2.1.3", 1, "m", 1), ("2.1.4", 2, "!", 1)]
        assert isinstance(frames[-1], End)
        assert frames[-1].cursor == "3.1.4"
        assert [c.finish_reason for c in frames[-1].choices] == ["stop", "length", "length"]

    live(test)


def test_batches_of_several_choices_are_told_to_readers_together() -> None:
    async def main() -> None:
        stream = stream_of(request(n=2))
        reader = stream.readers.join()
        told: list[list[Frame]] = []
        reader.on_ready = lambda: told.append(reader.take())
        feed(stream, "a", 0, choice=0)
        feed(stream, "b", 0, choice=1)
        assert told == []
        await settle()
        assert [deltas(frames) for frames in told] == [[("1.0", 0, "a", 1), ("1.1", 1, "b", 1)]]

    asyncio.run(main())


def test_tokens_that_come_twice_count_once_and_those_behind_a_gap_do_not() -> None:
    def test() -> None:
        stream = stream_of(request())
        feed(stream, "abc", 0)
        feed(stream, "bcd", 1)
        assert deltas(stream.readers.join().take()) == [("4", 0, "abcd", 4)]
        feed(stream, "f", 5)
        assert stream.ending is None and stream.counts == [4]

    live(test)


def test_nothing_is_taken_after_the_end() -> None:
    def test() -> None:
        stream = stream_of(request(stop=("cd",)))
        feed(stream, "abcdef", 0)
        feed(stream, "g", 6)
        stream.cancel()
        stream.lost()
        frames = stream.readers.join().take()
        # "c" and "d" have no text. The one waits for company, the other is the last, which no delta has.
        assert deltas(frames) == [("3", 0, "ab", 3)]
        end = frames[-1]
        assert isinstance(end, End)
        assert (end.choices[0].finish_reason, end.choices[0].stop_reason) == ("stop", "cd")
        assert end.usage.completion_tokens == 4

    live(test)


def test_a_request_that_shows_tokens_has_all_of_them_in_deltas() -> None:
    def test() -> None:
        stream = stream_of(request(return_token_ids=True))
        feed(stream, "a\0", 0, finish="stop")
        reader = stream.readers.join()
        assert deltas(reader.take()) == [("2", 0, "a", 2)]

    live(test)


def test_tokens_that_no_delta_will_have_do_not_hold_up_the_other_choices() -> None:
    def test() -> None:
        stream = stream_of(request(n=3), window_tokens=1)
        generation = FakeGeneration(stream.job("i", 1), stream)
        stream.accept(generation)
        reader = stream.readers.join()
        for index in range(2):
            feed(stream, "a\0", 0, choice=index, finish="stop")
        reader.take()
        assert reader.backlog() == 0
        assert not stream.readers.paused

    live(test)


def test_cancelling_is_an_ending_and_idempotent() -> None:
    def test() -> None:
        stream = stream_of(request())
        feed(stream, "ab", 0)
        stream.cancel()
        stream.cancel()
        frames = stream.readers.join().take()
        assert isinstance(frames[-1], End)
        assert frames[-1].choices[0].finish_reason == "cancelled"
        assert frames[-1].cursor == "2"

    live(test)


def test_tokens_and_logprobs_only_when_asked_for() -> None:
    def test() -> None:
        stream = stream_of(request(return_token_ids=True, logprobs=1))
        stream.feed(TokenBatch(1, 0, 0, [97, 98], None, None, [TokenLogprob(-0.5, [(98, -1.0)])] * 2))
        stream.feed(
            TokenBatch(1, 0, 1, [98, 99], None, None, [TokenLogprob(-0.5, []), TokenLogprob(-0.25, [])])
        )
        delta = stream.readers.join().take()[1]
        assert isinstance(delta, Delta)
        assert delta.token_ids == [97, 98, 99]
        assert delta.logprobs is not None
        assert [(entry.token, entry.logprob) for entry in delta.logprobs] == [
            ("a", -0.5),
            ("b", -0.5),
            ("c", -0.25),
        ]
        assert [entry.token for entry in delta.logprobs[0].top_logprobs] == ["b"]

    live(test)


@pytest.mark.parametrize("cursor", ["4", "-1", "x", "1.1", "", "١", "1" * 300])
def test_cursors_that_the_stream_does_not_have(cursor: str) -> None:
    def test() -> None:
        stream = stream_of(request())
        feed(stream, "abc", 0)
        with pytest.raises(InvalidCursor):
            stream.readers.join(after=cursor)

    live(test)


@given(st.data())
def test_any_way_of_feeding_and_reading_gives_the_same_text(data: st.DataObject) -> None:
    """Readers that start anywhere and take at any time see the rest of the same text."""
    texts = data.draw(st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=20), min_size=1, max_size=3))

    def test() -> None:
        stream = stream_of(request(n=len(texts)), window_tokens=1000)
        readers: list[tuple[Reader, list[int], list[Frame]]] = []
        counts = [0] * len(texts)
        while stream.ending is None:
            open_choices = [i for i, text in enumerate(texts) if counts[i] < len(text)]
            choice = data.draw(st.sampled_from(open_choices))
            size = data.draw(st.integers(1, len(texts[choice]) - counts[choice]))
            if len(readers) < 8 and data.draw(st.booleans()):
                readers.append((stream.readers.join(after=stream.cursor), list(counts), []))
            begin = counts[choice]
            counts[choice] += size
            finish = "length" if counts[choice] == len(texts[choice]) else None
            feed(stream, texts[choice][begin : counts[choice]], begin, choice, finish)
            for reader, _, frames in readers:
                if data.draw(st.booleans()):
                    frames.extend(reader.take())
        for reader, begins, frames in readers:
            frames.extend(reader.take())
            for index, text in enumerate(texts):
                seen = "".join(f.text for f in frames if isinstance(f, Delta) and f.index == index)
                assert seen == text[begins[index] :]
            assert isinstance(frames[-1], End) and reader.ended

    live(test)


def test_a_choice_that_a_stop_string_ends_is_ended_in_the_engine() -> None:
    def test() -> None:
        stream = stream_of(request(stop=("x",), n=3))
        generation = FakeGeneration.__new__(FakeGeneration)
        generation.calls = []
        feed(stream, "abx", 0)  # before the acceptance
        stream.accept(generation)
        assert generation.calls == ["end 0"]
        feed(stream, "ab", 0, 1)
        feed(stream, "cx", 2, 1)
        feed(stream, "more", 4, 1)
        feed(stream, "more", 3, 0)
        feed(stream, "", 7, 0, "stop")
        assert generation.calls == ["end 0", "end 1"]
        feed(stream, "abcdx", 0, 2)
        assert generation.calls == ["end 0", "end 1"], "the whole job is over"
        assert isinstance(stream.ending, End)
        assert [choice.finish_reason for choice in stream.ending.choices] == ["stop"] * 3
        assert [choice.stop_reason for choice in stream.ending.choices] == ["x"] * 3
        assert stream.ending.usage.completion_tokens == 3 + 4 + 5

    live(test)


def test_generation_pauses_for_a_reader_that_is_a_window_behind_and_goes_on_when_it_reads() -> None:
    def test() -> None:
        stream = stream_of(request())
        generation = FakeGeneration.__new__(FakeGeneration)
        generation.calls = []
        stream.accept(generation)
        reader = stream.readers.join()
        feed(stream, "abcdefgh", 0)
        assert generation.calls == []
        feed(stream, "i", 8)
        feed(stream, "j", 9)
        assert generation.calls == ["pause"]
        reader.take()
        assert generation.calls == ["pause", "resume"]

    live(test)


def test_a_slow_observer_does_not_hold_back_a_fast_reader() -> None:
    def test() -> None:
        stream = stream_of(request())
        generation = FakeGeneration.__new__(FakeGeneration)
        generation.calls = []
        stream.accept(generation)
        fast = stream.readers.join()
        seen: list[Frame] = []
        fast.on_ready = lambda: seen.extend(fast.take())
        slow = stream.readers.join()
        for position, letter in enumerate("abcdefghijklmnop"):
            feed(stream, letter, position)
        assert generation.calls == []
        fast.close()
        assert generation.calls == ["pause"]
        slow.close()
        assert generation.calls == ["pause", "resume"]

    live(test)


def test_frames_in_pull_style_end_with_the_stream_and_close_the_reader() -> None:
    async def main() -> None:
        stream = stream_of(request())

        async def read() -> list[Frame]:
            return [frame async for frame in stream.readers.join().frames()]

        reading = asyncio.ensure_future(read())
        await settle()
        feed(stream, "ab", 0)
        await settle()
        feed(stream, "c", 2, finish="length")
        frames = await reading
        assert deltas(frames) == [("2", 0, "ab", 2), ("3", 0, "c", 1)]
        assert isinstance(frames[-1], End) and not stream.readers

    asyncio.run(main())
