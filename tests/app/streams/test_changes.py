"""Streams that are changed while they run: whoever makes them from the record gets the same text, in whatever pieces it comes."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from app.schema.frames import Delta, End, Frame
from app.schema.tokens import Edit, Steering, TokenBatch, steered_logprobs
from app.streams.memory_store import MemoryStreamStore
from app.streams.reader import Reader
from app.streams.recorder import PACE_S, Recorder
from app.streams.store import MAX_UNSTORED_TOKENS, Change, Excerpt
from app.streams.store_bounds import StoreBounds
from app.streams.stream import Stream
from app.wire.sse import NativeSseEncoder
from tests.app.streams.test_stream import deltas, feed, live, stream_of
from tests.app.streams.test_window import generation_of
from tests.fakes.clock import FakeClock, settle
from tests.fakes.generator import encode
from tests.fakes.requests import request


def put_in(
    stream: Stream, steering: Steering, choice: int = 0, finish: str | None = None, *, logprobs: bool = False
) -> None:
    """What an engine does when it obeys."""
    position = stream.counts[choice]
    edit = Edit(id=steering.id, position=position, steered=len(steering.token_ids))
    reported = steered_logprobs(len(steering.token_ids)) if logprobs else None
    stream.feed(
        TokenBatch(1, choice, position, steering.token_ids, finish, None, reported, None, [edit])  # type: ignore[arg-type]
    )


def stops(change: str, *added: str) -> Change:
    return Change(id=change, stops=list(added))


def steered(change: str, text: str) -> Change:
    return Change(id=change, token_ids=encode(text))


def recorded(stream: Stream) -> None:
    """The store has all of the stream."""
    stream.recorded([len(choice.edits) for choice in stream.choices])


def pieces(frames: list[Frame]) -> list[tuple[str, str, bool]]:
    return [(frame.cursor, frame.text, frame.steered) for frame in frames if isinstance(frame, Delta)]


def test_added_stop_strings_take_effect_from_the_next_text_on() -> None:
    def test() -> None:
        stream = stream_of(request())
        feed(stream, "one END two EN", 0)
        stream.change(stops("a", "END"))
        feed(stream, "D three END four", 14)
        recorded(stream)
        frames = stream.readers.join().take()
        assert "".join(text for _, text, _ in pieces(frames)) == "one END two END three "
        end = frames[-1]
        assert isinstance(end, End)
        assert (end.choices[0].finish_reason, end.choices[0].stop_reason) == ("stop", "END")
        stream.change(stops("b", "x"))
        assert not stream.choices[0].has("b")

    live(test)


def test_what_is_put_in_is_a_delta_of_its_own() -> None:
    def test() -> None:
        stream = stream_of(request())
        generation = generation_of(stream)
        feed(stream, "ab", 0)
        stream.change(steered("a", "XYZ"))
        (steering,) = generation.steerings
        feed(stream, "c", 2)  # was under way
        put_in(stream, steering)
        feed(stream, "d", 6)
        recorded(stream)
        frames = stream.readers.join().take()
        assert pieces(frames) == [("3", "abc", False), ("6", "XYZ", True), ("7", "d", False)]
        assert stream.usage.completion_tokens == 7
        # A reader that comes back from within gets the rest.
        assert pieces(stream.readers.join(after="4").take()) == [("6", "YZ", True), ("7", "d", False)]
        assert NativeSseEncoder("st_1").encode(frames[2:3]) == (
            b'id: st_1:6\ndata: {"type":"delta","cursor":"6","index":0,"text":"XYZ","tokens":3,"steered":true}\n\n'
        )
        job = stream.job("i", 1)
        assert (job.generated, job.steered) == ([encode("abcXYZd")], [6])

    live(test)


def test_what_is_put_in_neither_ends_a_choice_nor_is_part_of_an_end() -> None:
    def test() -> None:
        stream = stream_of(request(stop=("END",)))
        feed(stream, "aEN", 0)
        put_in(stream, Steering("a", encode("D END E")))
        feed(stream, "NDb", 10)
        feed(stream, "END", 13)
        recorded(stream)
        frames = stream.readers.join().take()
        # Text that was held back leaves with what comes next: it can't be part of a stop string any more.
        assert pieces(frames) == [("3", "a", False), ("10", "END END E", True), ("15", "NDb", False)]
        assert isinstance(frames[-1], End) and frames[-1].choices[0].stop_reason == "END"

    live(test)


def test_what_is_put_in_up_to_the_end() -> None:
    def test() -> None:
        stream = stream_of(request(logprobs=0, return_token_ids=True))
        stream.feed(TokenBatch(1, 0, 0, [97], None, None, steered_logprobs(1)))
        put_in(stream, Steering("a", encode("XY")), finish="length", logprobs=True)
        recorded(stream)
        frames = stream.readers.join().take()
        delta, end = frames[2], frames[3]
        assert isinstance(delta, Delta) and isinstance(end, End)
        assert (delta.token_ids, delta.steered) == (encode("XY"), True)
        assert delta.logprobs is not None
        assert [(entry.token, entry.logprob, entry.top_logprobs) for entry in delta.logprobs] == [
            ("X", 0.0, []),
            ("Y", 0.0, []),
        ]
        assert (end.cursor, end.choices[0].finish_reason) == ("3", "length")

    live(test)


def test_a_change_is_made_once() -> None:
    def test() -> None:
        stream = stream_of(request())
        generation = generation_of(stream)
        for _ in range(2):
            stream.change(steered("a", "XY"))
            stream.change(stops("b", "END"))
        assert [steering.id for steering in generation.steerings] == ["a"]
        put_in(stream, generation.steerings[0])
        stream.change(steered("a", "XY"))
        assert len(generation.steerings) == 1
        assert [edit.id for edit in stream.choices[0].edits] == ["b", "a"]

    live(test)


def test_what_did_not_come_out_of_a_generator_is_put_into_the_next() -> None:
    def test() -> None:
        stream = stream_of(request())
        stream.change(steered("a", "X"))
        first = generation_of(stream)
        stream.change(steered("b", "Y"))
        assert [steering.id for steering in first.steerings] == ["a", "b"]
        put_in(stream, first.steerings[0])
        second = generation_of(stream)
        assert [steering.id for steering in second.steerings] == ["b"]
        put_in(stream, second.steerings[0])
        assert generation_of(stream).steerings == []
        # The same batch again, as after a channel that was opened again.
        edit = Edit(id="b", position=1, steered=1)
        stream.feed(TokenBatch(1, 0, 1, encode("Y"), edits=[edit]))
        assert stream.counts == [2] and len(stream.choices[0].edits) == 2

    live(test)


def test_readers_wait_for_the_log_at_a_change() -> None:
    def test() -> None:
        stream = stream_of(request(n=2), window_tokens=100)
        reader = stream.readers.join()
        taken: list[Frame] = []
        feed(stream, "ab", 0)
        feed(stream, "x", 0, choice=1)
        put_in(stream, Steering("a", encode("CD")))
        feed(stream, "yz", 1, choice=1)
        taken += reader.take()
        # What was put into choice 0 is not logged; nothing was put into choice 1, as far as is known.
        assert deltas(taken) == [("2.0", 0, "ab", 2), ("2.3", 1, "xyz", 3)]
        stream.change(stops("b", "!"))
        feed(stream, "q", 3, choice=1)
        stream.cancel()
        assert reader.take() == [] and not reader.ended
        stream.recorded([1, 0])
        assert pieces(reader.take()) == [("4.3", "CD", True)]
        stream.recorded([2, 1])
        frames = reader.take()
        assert pieces(frames) == [("4.4", "q", False)] and isinstance(frames[-1], End)

    live(test)


def test_a_reader_of_one_choice_waits_for_the_log_too() -> None:
    def test() -> None:
        stream = stream_of(request())
        reader = stream.readers.join()
        feed(stream, "a", 0)
        assert pieces(reader.take()) == [("1", "a", False)]
        stream.change(stops("a", "END"))
        feed(stream, "b", 1)
        assert reader.take() == []
        recorded(stream)
        assert pieces(reader.take()) == [("2", "b", False)]
        put_in(stream, Steering("b", encode("XY")))
        feed(stream, "c", 4)
        assert reader.take() == []
        recorded(stream)
        assert pieces(reader.take()) == [("4", "XY", True), ("5", "c", False)]

    live(test)


def test_a_reader_behind_a_barrier_may_have_a_window() -> None:
    def test() -> None:
        stream = stream_of(request())
        feed(stream, "ab", 0)
        put_in(stream, Steering("a", encode("CD")))
        reader = stream.readers.join(window_tokens=3)
        assert pieces(reader.take()) == [("2", "ab", False)]
        recorded(stream)
        assert pieces(reader.take()) == [("3", "C", True)]
        reader.acknowledge("3")
        assert pieces(reader.take()) == [("4", "D", True)]

    live(test)


def test_after_a_takeover_changes_wait_for_what_readers_may_have_seen() -> None:
    def test() -> None:
        stream = stream_of(request())
        feed(stream, "ab", 0)
        stream.produce_here(taken_over=True)
        generation = generation_of(stream)
        stream.change(steered("a", "X"))
        stream.change(stops("b", "END"))
        for position in range(2, 2 + MAX_UNSTORED_TOKENS):
            assert generation.steerings == [] and not stream.choices[0].edits
            feed(stream, "c", position)
        assert [steering.id for steering in generation.steerings] == ["a"]
        assert stream.choices[0].edits == [Edit(id="b", position=2 + MAX_UNSTORED_TOKENS, stops=["END"])]

    live(test)


def test_what_contradicts_the_log_is_not_shown_any_longer() -> None:
    """A producer that had lost its lease made tokens that the new producer has changed."""

    def test() -> None:
        stream = stream_of(request())
        stream.produce_elsewhere()
        feed(stream, "abcd", 0)
        reader = stream.readers.join()
        batch = TokenBatch(0, 0, 2, encode("XYcd"), edits=[Edit(id="a", position=2, steered=2)])
        stream.absorb(Excerpt([batch], None, False, 0.0))
        assert reader.cut and stream.readers.are_cut_off and stream.counts == [4]

    live(test)


class Living:
    """A producer's stream with its recorder and store, and a follower that reads the store."""

    def __init__(self, choices: int) -> None:
        self.clock = FakeClock()
        self.store = MemoryStreamStore(StoreBounds(), self.clock)
        self._asked = request(n=choices, stop=("fg",))
        self.stream = self.another()
        self.follower = self.another()
        self.follower.produce_elsewhere()
        self.recorder = Recorder(self.store, "d1", self.clock, on_stale=lambda stream: None)
        self.writing = asyncio.ensure_future(self.recorder.run())
        self.generation = generation_of(self.stream)
        self.obeyed = 0

    def another(self) -> Stream:
        return stream_of(self._asked, window_tokens=10_000)

    async def begin(self) -> None:
        await self.store.create(self.stream.record, "d1")
        self.recorder.start(self.stream, 1, [0] * len(self.stream.choices))

    async def write(self) -> None:
        self.recorder.changed(self.stream)
        await self.clock.advance(PACE_S)

    async def follow(self) -> None:
        self.follower.absorb(await self.store.read("st_1", self.follower.counts))

    async def rebuilt(self) -> Stream:
        stream = self.another()
        stream.produce_elsewhere()
        stream.absorb(await self.store.read("st_1", [0] * len(stream.choices)))
        return stream


def state(stream: Stream) -> list[object]:
    return [
        (choice.token_ids, choice.text(0, None), choice.edits, choice.finish_reason, choice.stop_reason)
        for choice in stream.choices
    ]


@settings(max_examples=150)
@given(st.data())
def test_driver_follower_and_whoever_takes_over_have_the_same_text(data: st.DataObject) -> None:
    choices = data.draw(st.integers(1, 3))

    async def main() -> None:
        living = Living(choices)
        await living.begin()
        stream, generation = living.stream, living.generation
        readers: list[tuple[Reader, list[int], list[Frame]]] = []
        for number in range(data.draw(st.integers(1, 25))):
            act = data.draw(
                st.sampled_from(
                    ["tokens", "tokens", "stops", "steer", "obey", "write", "follow", "read", "take"]
                )
            )
            if stream.ending is not None:
                break
            running = [i for i, choice in enumerate(stream.choices) if choice.finish_reason is None]
            if act == "tokens":
                choice = data.draw(st.sampled_from(running))
                text = data.draw(st.text(alphabet="abcdefg", min_size=1, max_size=6))
                feed(stream, text, stream.counts[choice], choice)
            elif act == "stops":
                added = data.draw(
                    st.lists(st.text(alphabet="abcd", min_size=1, max_size=3), min_size=1, max_size=2)
                )
                stream.change(stops(f"{number}", *added))
            elif act == "steer":
                stream.change(
                    steered(f"{number}", data.draw(st.text(alphabet="abcdefg", min_size=1, max_size=5)))
                )
            elif act == "obey":
                for steering in generation.steerings[living.obeyed :]:
                    for choice in running:
                        if stream.choices[choice].finish_reason is None:
                            put_in(stream, steering, choice)
                living.obeyed = len(generation.steerings)
            elif act == "write":
                await living.write()
            elif act == "follow":
                await living.follow()
            elif act == "read" and len(readers) < 8:
                at = data.draw(st.sampled_from([[0] * choices, living.follower.counts]))
                readers.append((stream.readers.join(after=".".join(map(str, at))), list(at), []))
            for reader, _, frames in readers if act == "take" else ():
                frames += reader.take()
        stream.cancel()
        await living.write()
        await living.write()
        await living.follow()
        rebuilt = await living.rebuilt()
        assert state(rebuilt) == state(living.follower)
        for one, other in zip(state(stream), state(rebuilt), strict=True):
            # That a choice was cancelled is known of the ending alone.
            assert one[:3] == other[:3]  # type: ignore[index]
        assert rebuilt.ending == stream.ending == living.follower.ending
        for reader, begins, frames in readers:
            frames += reader.take()
            assert reader.ended
            for index, begin in enumerate(begins):
                seen = [f for f in frames if isinstance(f, Delta) and f.index == index]
                assert "".join(f.text for f in seen) == stream.choices[index].text(begin, None)
        living.writing.cancel()
        await settle()

    asyncio.run(main())
