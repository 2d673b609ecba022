"""Many streams on one connection: whose frames come when, what is refused, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from app.conversation import Conversation
from app.errors import Draining, InvalidRequest, Overloaded, ServiceError, StreamNotFound
from app.model import Model
from app.schema.frames import Delta, End, Error, Start
from app.schema.server_messages import Addressed, ErrorReply, Pong
from app.service import GenerationService
from app.settings import Settings
from app.streams.memory_store import MemoryStreamStore
from app.streams.status import StreamStatus
from app.streams.store_bounds import StoreBounds
from app.validation import parse_message
from tests.fakes.clock import FakeClock, settle
from tests.fakes.generator import FakeGeneration, FakeGenerator, FakeTokenizer

MOST_STREAMS = 4
MOST_MESSAGES = 3
SETTINGS = Settings.model_validate(
    {
        "models": [{"name": "letters"}],
        "limits": {"max_streams_per_connection": MOST_STREAMS, "max_pending_messages": MOST_MESSAGES},
    }
)


class WatchedService(GenerationService):
    """Notes what streams are asked to do. `gate` holds such a call, `refusal` is raised by it."""

    gate: asyncio.Event | None = None
    refusal: Exception | None = None

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.calls: list[tuple[Any, ...]] = []

    async def _note(self, *call: Any) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(call)

    async def stop(self, stream_id: str, owner: str = "") -> StreamStatus:
        await self._note("stop", stream_id, owner)
        return await self.status(stream_id, owner)

    async def add_stops(self, stream_id: str, stops: Sequence[str], owner: str = "") -> None:
        await self._note("update", stream_id, stops, owner)

    async def steer(self, stream_id: str, text: str, owner: str = "") -> None:
        await self._note("steer", stream_id, text, owner)


class World:
    """A service over a fake generator, and conversations with it. `taken` is what the first connection was sent."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStreamStore(StoreBounds(lease_s=3.0, retention_s=600.0), self.clock)
        self.generator = FakeGenerator(capacity=100)
        self.tokenizer = FakeTokenizer(max_model_len_tokens=2000)
        model = Model(SETTINGS.models[0], self.tokenizer, self.generator)
        self.service = WatchedService(
            SETTINGS, {"letters": model}, self.store, ingress="i1", clock=self.clock
        )
        self.running = asyncio.ensure_future(self.service.run())
        self.conversations: list[Conversation] = []
        self.conversation, self.taken = self.connect()

    def connect(self, owner: str = "ann") -> tuple[Conversation, list[Addressed]]:
        """A connection that takes what is ready at once."""
        conversation = Conversation(self.service, owner)
        self.conversations.append(conversation)
        taken: list[Addressed] = []
        conversation.on_ready = lambda: taken.extend(conversation.take())
        return conversation, taken

    async def say(self, kind: str, *, to: Conversation | None = None, **fields: Any) -> None:
        (to or self.conversation).accept(parse_message({"type": kind, **fields}))
        await settle()

    async def start(self, **fields: Any) -> tuple[str, FakeGeneration]:
        """A stream that the first connection reads."""
        before = len(self.generator.generations)
        given = {"prompt": "hi", "seed": 1, "on_disconnect": "cancel", **fields}
        await self.say("generate", **given)
        [generation] = self.generator.generations[before:]
        [*_, stream_id] = [sent.stream for sent in self.taken if isinstance(sent.frame, Start)]
        assert stream_id is not None
        return stream_id, generation

    async def close(self) -> None:
        for conversation in self.conversations:
            await conversation.close()
        await settle()
        assert not self.generator.running
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        assert not self.service.on_close


def live(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await settle()
        await test(world)
        await world.close()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def refusals(taken: list[Addressed]) -> list[tuple[str, str | None, str | None, str | None]]:
    """Code, parameter, stream and ref of each."""
    return [
        (sent.frame.error.code, sent.frame.error.param, sent.stream, sent.ref)
        for sent in taken
        if isinstance(sent.frame, ErrorReply)
    ]


def text(taken: list[Addressed], stream: str) -> str:
    return "".join(
        sent.frame.text for sent in taken if isinstance(sent.frame, Delta) and sent.stream == stream
    )


def kinds(taken: list[Addressed], stream: str) -> list[type]:
    return [type(sent.frame) for sent in taken if sent.stream == stream]


# Frames.


def test_every_token_is_taken_before_feeding_returns() -> None:
    async def test(world: World) -> None:
        stream, generation = await world.start(ref="a")
        for letter in "abc":
            generation.say(letter)
            assert world.taken[-1] == Addressed(world.taken[-1].frame, stream, None)
            assert text(world.taken, stream)[-1] == letter
        generation.say("", finish="stop")
        assert kinds(world.taken, stream) == [Start, Delta, Delta, Delta, End]
        assert [sent.ref for sent in world.taken] == ["a", None, None, None, None]

    live(test)


def test_streams_are_told_apart_and_each_is_in_order() -> None:
    async def test(world: World) -> None:
        streams = [await world.start(ref=ref) for ref in "xyz"]
        for turn in range(5):
            for number, (_, generation) in enumerate(streams):
                generation.say(chr(97 + turn + 5 * number))
        for number, (stream, generation) in enumerate(streams):
            generation.say("", finish="stop")
            assert text(world.taken, stream) == "abcdefghijklmno"[5 * number : 5 * number + 5]
        assert [sent.ref for sent in world.taken if isinstance(sent.frame, Start)] == ["x", "y", "z"]

    live(test)


def test_what_is_not_taken_is_coalesced_for_each_stream() -> None:
    async def test(world: World) -> None:
        (first, one), (second, two) = await world.start(), await world.start()
        world.conversation.on_ready = None
        for letter in "abc":
            one.say(letter)
            two.say(letter.upper())
        assert [(sent.stream, sent.frame.text) for sent in world.conversation.take()] == [  # type: ignore[union-attr]
            (first, "abc"),
            (second, "ABC"),
        ]
        assert world.conversation.take() == []

    live(test)


def test_a_stream_whose_frames_cannot_be_made_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        (broken, one), (well, two) = await world.start(), await world.start()
        one.say("ab")
        sink: Any = one.sink
        monkeypatch.setattr(sink.choices[0], "text", lambda begin, end: 1 / 0)
        one.say("c")
        two.say("d")
        [*_, error] = [sent.frame for sent in world.taken if sent.stream == broken]
        assert isinstance(error, Error)
        assert (error.cursor, error.error.code) == ("2", "internal_error")
        assert text(world.taken, well) == "d"
        one.say("e")
        assert [sent.frame for sent in world.taken if sent.stream == broken][-1] is error

    live(test)


# Messages.


def test_a_request_that_is_not_valid_is_answered_by_its_ref() -> None:
    async def test(world: World) -> None:
        await world.say("generate", ref="a")
        await world.say("generate", ref="b", prompt="x", max_tokens=2, min_tokens=3)
        await world.say("generate", ref="c", prompt="x", stream=False)
        await world.say("generate", ref="d", prompt="x", detach=True, window=3)
        await world.say("generate", prompt="x", model="other")
        assert refusals(world.taken) == [
            ("invalid_request", "prompt", None, "a"),
            ("invalid_request", "min_tokens", None, "b"),
            ("invalid_request", "stream", None, "c"),
            ("invalid_request", "window", None, "d"),
            ("model_not_found", "model", None, None),
        ]
        assert not world.generator.generations

    live(test)


def test_messages_reach_the_service_with_their_owner() -> None:
    async def test(world: World) -> None:
        await world.say("stop", stream="st_1")
        await world.say("update", stream="st_2", stop="x")
        await world.say("steer", stream="st_3", text="y")
        assert world.service.calls == [
            ("stop", "st_1", "ann"),
            ("update", "st_2", ["x"], "ann"),
            ("steer", "st_3", "y", "ann"),
        ]

    live(test)


@pytest.mark.parametrize("fields", [{"type": "cancel"}, {"type": "resume"}, {"type": "ack", "cursor": "1"}])
def test_a_stream_that_never_was_is_refused_by_its_name(fields: dict[str, Any]) -> None:
    async def test(world: World) -> None:
        world.conversation.accept(parse_message({**fields, "stream": "st_none", "ref": "r"}))
        await settle()
        [(code, _, stream, ref)] = refusals(world.taken)
        assert (code, stream, ref) == ("stream_not_found", "st_none", "r")

    live(test)


def test_another_owners_stream_looks_like_none() -> None:
    async def test(world: World) -> None:
        stream, _ = await world.start()
        other, taken = world.connect("bob")
        for kind in ("resume", "cancel"):
            await world.say(kind, to=other, stream=stream)
        assert [code for code, *_ in refusals(taken)] == ["stream_not_found"] * 2

    live(test)


def test_a_cancelled_stream_says_so_in_its_end_frame() -> None:
    async def test(world: World) -> None:
        stream, generation = await world.start()
        generation.say("ab")
        await world.say("cancel", stream=stream)
        assert not world.generator.running
        end = world.taken[-1].frame
        assert isinstance(end, End) and end.choices[0].finish_reason == "cancelled"
        await world.say("cancel", stream=stream)
        assert refusals(world.taken) == []

    live(test)


def test_what_fails_unforeseen_is_said_and_is_nobody_elses_matter(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        world.service.refusal = ZeroDivisionError("secret")
        await world.say("steer", stream="st_1", text="x", ref="r")
        [(code, _, stream, ref)] = refusals(world.taken)
        assert (code, stream, ref) == ("internal_error", "st_1", "r")
        assert "secret" not in str(world.taken) and "secret" in caplog.text
        await world.start()

    live(test)


def test_messages_of_one_stream_keep_their_order_and_others_overtake() -> None:
    async def test(world: World) -> None:
        gate = world.service.gate = asyncio.Event()
        await world.say("steer", stream="st_1", text="x")
        world.service.gate = None
        await world.say("stop", stream="st_1")
        await world.say("stop", stream="st_2")
        assert world.service.calls == [("stop", "st_2", "ann")]
        gate.set()
        await settle()
        assert world.service.calls[1:] == [("steer", "st_1", "x", "ann"), ("stop", "st_1", "ann")]

    live(test)


def test_a_message_goes_on_when_the_one_before_it_has_failed() -> None:
    async def test(world: World) -> None:
        gate = world.service.gate = asyncio.Event()
        world.service.refusal = StreamNotFound("gone")
        await world.say("steer", stream="st_1", text="x")
        await world.say("stop", stream="st_1")
        gate.set()
        await settle()
        assert [code for code, *_ in refusals(world.taken)] == ["stream_not_found"] * 2

    live(test)


def test_a_ping_is_answered() -> None:
    async def test(world: World) -> None:
        await world.say("ping")
        await world.say("ping", ref="p")
        assert world.taken == [Addressed(Pong()), Addressed(Pong(), None, "p")]

    live(test)


def test_a_message_that_was_not_understood_is_refused_by_its_names() -> None:
    async def test(world: World) -> None:
        world.conversation.refuse(InvalidRequest("What?", param="type"), ref="r", stream="s")
        assert refusals(world.taken) == [("invalid_request", "type", "s", "r")]

    live(test)


# Streams that are read again, detached, acknowledged.


def test_a_detached_stream_is_only_named_and_can_be_read_later() -> None:
    async def test(world: World) -> None:
        await world.say("generate", prompt="hi", detach=True, ref="a")
        [sent] = world.taken
        assert isinstance(sent.frame, Start) and sent.ref == "a" and sent.stream == sent.frame.stream
        generation = world.generator.generations[-1]
        generation.say("abc")
        assert len(world.taken) == 1
        await world.say("resume", stream=sent.stream, after="1")
        generation.say("d", finish="length")
        assert text(world.taken, sent.frame.stream) == "bcd"
        assert kinds(world.taken, sent.frame.stream)[-1] is End

    live(test)


def test_resume_reads_from_anywhere_also_what_has_ended() -> None:
    async def test(world: World) -> None:
        stream, generation = await world.start()
        generation.say("abcde", finish="length")
        for after, expected, first in (
            (None, "abcde", Start),
            ("0", "abcde", Delta),
            ("3", "de", Delta),
            ("5", "", End),
        ):
            conversation, taken = world.connect()
            await world.say("resume", to=conversation, stream=stream, ref="r", after=after)
            assert text(taken, stream) == expected
            assert type(taken[0].frame) is first and type(taken[-1].frame) is End
            assert [sent.ref for sent in taken if sent.ref] == (["r"] if after is None else [])
        await world.say("resume", stream=stream, after="6")
        assert refusals(world.taken) == [("invalid_cursor", "after", stream, None)]

    live(test)


def test_a_stream_is_read_once_on_a_connection() -> None:
    async def test(world: World) -> None:
        stream, generation = await world.start()
        await world.say("resume", stream=stream, after="0")
        assert refusals(world.taken) == [("invalid_request", "stream", stream, None)]
        generation.say("a", finish="length")
        await world.say("resume", stream=stream, after="0")
        assert text(world.taken, stream) == "aa"

    live(test)


def test_two_resumes_at_once_are_one_reader() -> None:
    async def test(world: World) -> None:
        stream, generation = await world.start()
        conversation, taken = world.connect()
        for _ in range(2):
            conversation.accept(parse_message({"type": "resume", "stream": stream, "after": "0"}))
        await settle()
        generation.say("abc")
        assert text(taken, stream) == "abc"
        assert [code for code, *_ in refusals(taken)] == ["invalid_request"]

    live(test)


def test_a_window_holds_the_stream_until_it_is_acknowledged() -> None:
    async def test(world: World) -> None:
        stream, generation = await world.start(window=3)
        for letter in "abcde":
            generation.say(letter)
        assert text(world.taken, stream) == "abc" and generation.calls == ["pause"]
        await world.say("ack", stream=stream, cursor="2")
        assert text(world.taken, stream) == "abcde"
        await world.say("ack", stream=stream, cursor="9")
        await world.say("ack", stream=stream, cursor="x")
        assert refusals(world.taken) == [("invalid_cursor", "cursor", stream, None)] * 2
        await world.say("ack", stream=stream, cursor="5")
        assert generation.calls == ["pause", "resume"]
        generation.say("f", finish="length")
        assert text(world.taken, stream) == "abcdef"

    live(test)


def test_a_window_counts_from_where_the_reader_began() -> None:
    async def test(world: World) -> None:
        stream, generation = await world.start()
        generation.say("abcdefgh")
        conversation, taken = world.connect()
        conversation.accept(parse_message({"type": "resume", "stream": stream, "after": "2", "window": 2}))
        conversation.accept(parse_message({"type": "ack", "stream": stream, "cursor": "2"}))
        await settle()
        assert text(taken, stream) == "cd" and refusals(taken) == []

    live(test)


def test_an_ack_that_comes_behind_the_end_is_no_mistake() -> None:
    async def test(world: World) -> None:
        streams = []
        for _ in range(MOST_STREAMS + 1):
            stream, generation = await world.start(window=8)
            generation.say("abc", finish="stop")
            streams.append(stream)
        for stream in streams[1:]:
            await world.say("ack", stream=stream, cursor="3")
        assert refusals(world.taken) == []
        await world.say("ack", stream=streams[0], cursor="3")
        assert [code for code, *_ in refusals(world.taken)] == ["stream_not_found"]

    live(test)


# Bounds.


def test_there_are_so_many_streams_and_no_more() -> None:
    async def test(world: World) -> None:
        streams = [await world.start() for _ in range(MOST_STREAMS)]
        await world.say("generate", prompt="hi", ref="r")
        await world.say("resume", stream="st_1")
        assert [(code, stream, ref) for code, _, stream, ref in refusals(world.taken)] == [
            ("too_many_streams", None, "r"),
            ("too_many_streams", "st_1", None),
        ]
        streams[0][1].say("", finish="stop")
        await world.start()

    live(test)


def test_streams_that_are_about_to_start_count_and_give_their_place_back() -> None:
    async def test(world: World) -> None:
        for _ in range(2):
            world.tokenizer.refusal = Overloaded("busy")
            for _ in range(MOST_MESSAGES):
                world.conversation.accept(parse_message({"type": "generate", "prompt": "hi"}))
            await settle()
        assert [code for code, *_ in refusals(world.taken)] == ["overloaded"] * 6
        world.tokenizer.refusal = None
        for _ in range(MOST_STREAMS):
            await world.start()

    live(test)


def test_there_are_so_many_messages_under_way_and_no_more() -> None:
    async def test(world: World) -> None:
        world.service.gate = asyncio.Event()
        for number in range(MOST_MESSAGES + 2):
            await world.say("stop", stream=f"st_{number}")
        assert [(code, stream) for code, _, stream, _ in refusals(world.taken)] == [
            ("overloaded", "st_3"),
            ("overloaded", "st_4"),
        ]
        world.service.gate.set()
        await settle()
        assert len(world.service.calls) == MOST_MESSAGES
        await world.say("stop", stream="st_9")
        assert len(world.service.calls) == MOST_MESSAGES + 1

    live(test)


def test_replies_that_nobody_takes_end_the_connection() -> None:
    async def test(world: World) -> None:
        _, generation = await world.start()
        world.conversation.on_ready = None
        endings = []
        for _ in range(MOST_MESSAGES + 1):
            await world.say("ping")
            endings.append(world.conversation.ending)
        assert endings[:-1] == [None] * MOST_MESSAGES
        assert isinstance(world.conversation.ending, Overloaded)
        generation.say("a")
        await world.say("ping")
        assert [type(sent.frame) for sent in world.conversation.take()] == [Pong] * MOST_MESSAGES + [Delta]
        assert world.conversation.take() == []

    live(test)


# Endings.


@pytest.mark.parametrize(
    ("on_disconnect", "goes_on"), [("cancel", False), ("grace", True), ("continue", True)]
)
def test_a_connection_that_ends_leaves_its_streams_to_their_on_disconnect(
    on_disconnect: str, goes_on: bool
) -> None:
    async def test(world: World) -> None:
        await world.start(on_disconnect=on_disconnect)
        await world.conversation.close()
        await settle()
        assert bool(world.generator.running) == goes_on
        await world.clock.advance(SETTINGS.streams.grace_s + 5)
        assert bool(world.generator.running) == (on_disconnect == "continue")
        world.generator.generations[-1].say("", finish="stop")
        await settle()

    live(test)


def test_nothing_is_opened_after_the_close_and_what_was_asked_of_streams_is_done() -> None:
    async def test(world: World) -> None:
        stream, _ = await world.start(on_disconnect="continue")
        world.conversation.accept(parse_message({"type": "cancel", "stream": stream}))
        world.conversation.accept(parse_message({"type": "generate", "prompt": "hi"}))
        await world.conversation.close()
        assert not world.generator.running and len(world.generator.generations) == 1
        before = list(world.taken)
        await world.say("generate", prompt="hi")
        world.conversation.refuse(InvalidRequest("late"))
        assert world.conversation.take() == [] and world.taken == before

    live(test)


@pytest.mark.parametrize("turns", range(12))
def test_a_connection_that_ends_while_a_stream_starts_frees_its_place(turns: int) -> None:
    async def test(world: World) -> None:
        world.conversation.accept(
            parse_message({"type": "generate", "prompt": "hi", "on_disconnect": "cancel"})
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        await world.conversation.close()
        await settle()
        assert not world.generator.running

    live(test)


def test_a_close_that_is_cancelled_has_closed_the_readers() -> None:
    async def test(world: World) -> None:
        await world.start()
        world.service.gate = asyncio.Event()
        await world.say("stop", stream="st_1")
        closing = asyncio.ensure_future(world.conversation.close())
        await settle()
        assert not world.generator.running and not closing.done()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing

    live(test)


def test_a_service_that_closes_ends_the_connection_also_one_without_streams() -> None:
    async def test(world: World) -> None:
        _, generation = await world.start()
        idle, _ = world.connect()
        told: list[ServiceError | None] = []
        idle.on_ready = lambda: told.append(idle.ending)
        generation.say("ab")
        await world.service.close()
        assert isinstance(world.conversation.ending, Draining)
        assert [type(error) for error in told] == [Draining]
        late = Conversation(world.service, "ann")
        assert isinstance(late.ending, Draining)
        await late.close()
        generation.sink.lost()

    live(test)


def test_a_stream_that_this_process_can_follow_no_more_ends_the_connection() -> None:
    async def test(world: World) -> None:
        _, generation = await world.start()
        stream: Any = generation.sink
        stream.readers.cut_off()
        assert isinstance(world.conversation.ending, Draining)

    live(test)
