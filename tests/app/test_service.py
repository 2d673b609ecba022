"""The life of a stream: what is refused before it starts, how it ends, and that its place is always given back."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import msgspec
import pytest

from app.errors import (
    Draining,
    GeneratorUnavailable,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PromptTooLong,
    RequestTimeout,
    ServiceError,
    StoreUnavailable,
)
from app.schema.constraint import Constraint
from app.schema.frames import ChoiceEnd, Delta, End, Error, Frame, Start
from app.schema.requests import GenerationRequest
from app.streams.store import Idempotency, Order
from tests.fakes.clock import settle
from tests.fakes.requests import request
from tests.fakes.services import World, live, rest, text


def test_a_stream_from_start_to_end() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request("hello", seed=7))
        reader = await world.service.read(stream)
        generation = world.generator.generations[0]
        assert generation.job.sampling.seed == 7
        assert generation.job.prompt == [104, 101, 108, 108, 111]
        assert generation.job.sampling.max_tokens == 64 - 5
        generation.say("ab")
        generation.say("c", finish="length")
        digest = hashlib.sha256(b"abc").hexdigest()
        frames = reader.take()
        assert frames[:2] == [
            Start("0", stream.id, "letters", 1_790_000_000, 7, 5, deterministic=True),
            Delta("3", 0, "abc", 3),
        ]
        end = frames[2]
        assert isinstance(end, End)
        assert (end.cursor, end.choices, end.text_sha256) == ("3", [ChoiceEnd(0, "length", None)], [digest])
        assert (end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.total_tokens) == (5, 3, 8)
        assert reader.ended and reader.take() == []
        await settle()
        assert world.free()

    live(test)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_start_frame_says_what_the_replica_is_wherever_it_is_read(deterministic: bool) -> None:
    async def test(world: World) -> None:
        world.generator.deterministic = deterministic
        stream = await world.service.start(request("hello", seed=7))
        world.generator.deterministic = not deterministic
        world.generator.generations[0].sink.lost()
        await settle()
        world.generator.generations[1].say("abc", finish="length")
        for service in (world.first.service, world.second.service):
            start = (await rest(await service.resume(stream.id)))[0]
            assert isinstance(start, Start) and start.deterministic is deterministic

    live(test)


def test_statistics_count_streams_and_places_while_they_are_held() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(n=2))
        reader = await world.second.service.resume(stream.id)
        assert world.service.statistics() == {"produced": 1, "followed": 0, "sequences": 2}
        assert world.second.service.statistics() == {"produced": 0, "followed": 1, "sequences": 0}
        for choice in range(2):
            world.generator.generations[0].say("ab", choice=choice, finish="stop")
        await world.clock.advance(1)
        await rest(reader)
        await world.clock.advance(1)
        for service in (world.service, world.second.service):
            assert service.statistics() == {"produced": 0, "followed": 0, "sequences": 0}

    live(test)


def test_the_server_draws_a_seed_and_says_which() -> None:
    async def test(world: World) -> None:
        first = await world.service.start(request())
        second = await world.service.start(request())
        assert first.start.seed != second.start.seed
        assert world.generator.generations[0].job.sampling.seed == first.start.seed

    live(test)


@pytest.mark.parametrize(
    ("asked", "error", "param"),
    [
        (request(model="nothing"), ModelNotFound, "model"),
        (request("x" * 64), PromptTooLong, "prompt"),
        (request(""), InvalidRequest, "prompt"),
        (request(logit_bias={128: 1.0}), InvalidRequest, "logit_bias"),
        (request(stop_token_ids=(500,)), InvalidRequest, "stop_token_ids"),
        (request(None, prompt_token_ids=(5, -1)), InvalidRequest, "prompt_token_ids"),  # type: ignore[arg-type]
        (request(n=9), Overloaded, None),
    ],
)
def test_what_is_refused_before_the_first_frame(
    asked: GenerationRequest, error: type[ServiceError], param: str | None
) -> None:
    async def test(world: World) -> None:
        with pytest.raises(error) as raised:
            await world.service.start(asked)
        assert raised.value.param == param
        await settle()
        assert world.free()

    live(test)


def test_a_prompt_that_is_too_long_is_told_by_how_much() -> None:
    async def test(world: World) -> None:
        with pytest.raises(PromptTooLong, match="70 tokens, 7 more than the 63"):
            await world.service.start(request("x" * 70))

    live(test)


def test_overload_is_refused_before_tokenization() -> None:
    async def test(world: World) -> None:
        await world.service.start(request())
        world.tokenizer.refusal = GeneratorUnavailable("the tokenizer was asked")
        with pytest.raises(Overloaded) as raised:
            await world.service.start(request())
        assert raised.value.retry_after_s == 1

    live(test, capacity=1)


def test_a_time_limit_that_passes_before_the_acceptance_is_the_callers_error() -> None:
    async def test(world: World) -> None:
        world.generator.hangs = True
        with pytest.raises(RequestTimeout, match="time limit"):
            await world.service.start(request(timeout_s=0.01))
        await settle()
        assert world.free()

    live(test)


def test_a_constraint_is_checked_before_the_stream_starts_and_goes_with_the_job() -> None:
    wanted = Constraint(kind="regex", text="a+", param="structured_outputs")

    async def test(world: World) -> None:
        with pytest.raises(InvalidRequest, match="no structured output") as refusal:
            await world.service.start(request(constraint=wanted))
        assert refusal.value.param == "structured_outputs" and world.tokenizer.checked == []
        assert not world.generator.generations

    live(test)

    async def able(world: World) -> None:
        card = await world.tokenizer.describe()
        world.tokenizer.card = msgspec.structs.replace(card, structured_output=True)
        stream = await world.service.start(request(constraint=wanted))
        assert world.tokenizer.checked == [wanted]
        assert world.generator.generations[0].job.sampling.constraint == wanted
        assert stream.record.sampling.constraint == wanted
        assert stream.record.request.sampling.constraint is None, "one copy is kept"

    live(able)


def test_a_refusal_of_the_generator_reaches_the_caller() -> None:
    async def test(world: World) -> None:
        world.generator.refusal = Overloaded("full", retry_after_s=3)
        with pytest.raises(Overloaded, match="full"):
            await world.service.start(request())
        world.generator.refusal = None
        world.tokenizer.refusal = InvalidRequest("the template refuses", param="messages")
        with pytest.raises(InvalidRequest, match="template"):
            await world.service.start(request())

    live(test)


def test_a_caller_that_leaves_while_waiting_leaves_nothing_behind() -> None:
    async def test(world: World) -> None:
        async def never(_: GenerationRequest) -> list[int]:
            await asyncio.Event().wait()
            raise AssertionError

        world.tokenizer.encode = never  # type: ignore[method-assign, assignment]
        starting = asyncio.ensure_future(world.service.start(request()))
        await settle()
        assert not world.free()
        starting.cancel()
        await settle()
        assert starting.cancelled() and world.free()

    live(test)


@pytest.mark.parametrize(
    ("policy", "freed_at_once"), [("cancel", True), ("grace", False), ("continue", False)]
)
def test_a_reader_that_leaves(policy: str, freed_at_once: bool) -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(on_disconnect=policy))
        with await world.service.read(stream) as reader:
            reader.take()
        await settle()
        assert world.free() == freed_at_once
        await world.clock.advance(31)
        assert world.free() == (policy != "continue")
        world.generator.generations[0].say("rest", finish="stop")
        await settle()
        assert world.free()
        assert isinstance(stream.ending, End)
        assert stream.ending.choices[0].finish_reason == ("stop" if policy == "continue" else "cancelled")

    live(test)


def test_a_reader_that_comes_back_within_its_grace() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(on_disconnect="grace"))
        (await world.service.read(stream)).close()
        await world.clock.advance(20)
        second = await world.service.resume(stream.id, "0")
        await world.clock.advance(20)
        assert stream.ending is None and not world.free()
        second.close()
        await world.clock.advance(31)
        assert world.free()

    live(test)


def test_a_reader_in_another_process_keeps_a_stream_alive() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(on_disconnect="cancel"))
        here = await world.service.read(stream)
        elsewhere = await world.second.service.resume(stream.id)
        here.close()
        for _ in range(10):
            await world.clock.advance(1)
        assert not world.free()
        elsewhere.close()
        for _ in range(10):
            await world.clock.advance(1)
        assert isinstance(stream.ending, End) and stream.ending.choices[0].finish_reason == "cancelled"

    live(test)


def test_a_generator_that_dies_is_replaced_and_the_text_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(seed=3, n=2))
        reader = await world.service.read(stream)
        first = world.generator.generations[0]
        first.say("abc", choice=0)
        first.say("xy", choice=1, finish="stop")
        world.generator.refuse_next = 2
        first.sink.lost()
        await world.clock.advance(2)
        second = world.generator.generations[1]
        assert second.job.generated == [[97, 98, 99], [120, 121]]
        assert second.job.finished == [False, True]
        assert (second.job.sampling, second.job.prompt) == (first.job.sampling, first.job.prompt)
        assert second.job.key != first.job.key
        second.say("de", choice=0, finish="length")
        frames = reader.take()
        assert "".join(f.text for f in frames if isinstance(f, Delta) and f.index == 0) == "abcde"
        assert isinstance(frames[-1], End) and frames[-1].cursor == "5.2"
        assert caplog.messages == [f"the stream {stream.id} has lost the generator replica replica-1"]
        second.sink.lost()
        await settle()
        assert len(caplog.messages) == 1

    live(test)


def test_a_stream_that_no_replica_brings_on_ends_with_an_error() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        world.generator.generations[0].say("abc")
        world.generator.refuse_next = 1000
        world.generator.generations[0].sink.lost()
        for _ in range(30):
            await world.clock.advance(1)
        assert isinstance(stream.ending, Error)
        assert (stream.ending.cursor, stream.ending.error.code) == ("3", "generator_unavailable")

    live(test)


def test_the_end_comes_within_the_wait_for_a_replica() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        world.generator.generations[0].say("abc")
        world.generator.refuse_next = 1000
        world.generator.generations[0].sink.lost()
        endings = []
        for pause_s in (7.9, 0.2):
            await world.clock.advance(pause_s)
            endings.append(stream.ending)
        assert endings[0] is None
        assert isinstance(endings[1], Error) and endings[1].error.retryable

    live(test)


def test_a_stream_waits_for_room_however_long_it_takes() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        world.generator.refusal = Overloaded("It is full.")
        world.generator.generations[0].sink.lost()
        await world.clock.advance(120)
        assert stream.ending is None
        world.generator.refusal = None
        await world.clock.advance(2)
        world.generator.generations[1].say("abc", finish="stop")
        assert isinstance(stream.ending, End)

    live(test)


def test_a_stream_that_ends_while_it_waits_gives_its_place_back_at_once() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        world.generator.refusal = Overloaded("It is full.")
        world.generator.generations[0].sink.lost()
        await world.clock.advance(10)
        await world.service.cancel(stream.id)
        await settle()
        assert world.free()

    live(test)


@pytest.mark.parametrize("lost_how", ["after the acceptance", "before the acceptance"])
def test_a_stream_that_kills_two_replicas_is_not_tried_on_a_third(lost_how: str) -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        world.generator.replica = "replica-2"
        if lost_how == "before the acceptance":
            world.generator.refusal = GeneratorUnavailable("The replica did not accept the job.")
            world.generator.refusal.lost_replica = "replica-2"
        world.generator.generations[0].sink.lost()
        await settle()
        if lost_how == "after the acceptance":
            world.generator.generations[1].sink.lost()
            await settle()
        assert isinstance(stream.ending, Error)
        error = stream.ending.error
        assert (error.code, error.retryable) == ("generation_failed", False)
        assert "2 replicas were lost" in error.message

    live(test)


def test_suspects_are_tried_in_turns_and_others_at_once() -> None:
    async def test(world: World) -> None:
        suspects = [await world.service.start(request()) for _ in range(3)]
        proved = await world.service.start(request())
        first = list(world.generator.generations)
        first[3].say("ab")
        world.generator.replica = "replica-2"
        for generation in first:
            generation.sink.lost()
        await settle()
        second = world.generator.generations[4:]
        assert {generation.sink for generation in second} >= {proved} and len(second) == 2
        trial = next(generation for generation in second if generation.sink is not proved)
        trial.say("a")
        await settle()
        assert len(world.generator.generations) == 7
        poison = world.generator.generations[6]
        for generation in (*second, poison):
            generation.sink.lost()
        await settle()
        assert len([stream for stream in suspects if stream.ending is not None]) == 1
        world.generator.replica = "replica-3"
        for _ in range(10):
            for generation in world.generator.generations[7:]:
                if generation.job.key in world.generator.running:
                    generation.say("abc", finish="stop")
            await world.clock.advance(1)
        assert [type(stream.ending) for stream in (*suspects, proved)].count(End) == 3

    live(test)


def test_without_a_replica_new_requests_are_refused_at_once() -> None:
    async def test(world: World) -> None:
        world.tokenizer.refusal = Overloaded("the tokenizer was asked")
        with pytest.raises(GeneratorUnavailable) as raised:
            await world.service.start(request())
        assert raised.value.retry_after_s == 1

    live(test, capacity=0)


def test_a_poison_request_fails_alone_and_is_not_tried_again() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        world.generator.generations[0].say("abc")
        world.generator.generations[0].say("", finish="error")
        frames = (await world.service.read(stream)).take()
        assert [type(frame) for frame in frames] == [Start, Delta, Error]
        assert isinstance(frames[-1], Error)
        assert (frames[-1].cursor, frames[-1].error.code) == ("3", "generation_failed")
        await settle()
        assert len(world.generator.generations) == 1 and world.free()

    live(test)


def test_a_stream_that_takes_too_long_times_out() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(timeout_s=0.001))
        frames: list[Frame] = [frame async for frame in (await world.service.read(stream)).frames()]
        assert isinstance(frames[-1], Error) and frames[-1].error.code == "timeout"

    live(test)


def test_closing_the_service_cuts_its_readers_and_another_process_goes_on() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(on_disconnect="cancel"))
        here = asyncio.ensure_future(rest(await world.service.read(stream)))
        elsewhere = asyncio.ensure_future(rest(await world.second.service.resume(stream.id)))
        world.generator.generations[0].say("abc")
        await settle()
        await world.service.close()
        with pytest.raises(Draining):
            await here
        assert stream.ending is None and world.first.free()
        await world.clock.advance(4)
        world.second.generator.generations[0].say("d", finish="length")
        await settle()
        assert text(await elsewhere) == "abcd"

    live(test)


def test_a_service_that_is_closed_refuses() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        starting = asyncio.ensure_future(world.service.start(request()))
        await asyncio.sleep(0)
        await world.service.close()
        with pytest.raises(Draining):
            await starting
        for call in (
            world.service.start(request()),
            world.service.resume(stream.id),
            world.service.cancel(stream.id),
        ):
            with pytest.raises(Draining):
                await call
        with pytest.raises(Draining):
            (await world.service.read(stream))

    live(test)


def test_a_reader_of_another_processs_stream_is_cut_when_its_own_closes() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        elsewhere = asyncio.ensure_future(rest(await world.second.service.resume(stream.id)))
        await settle()
        await world.second.service.close()
        with pytest.raises(Draining):
            await elsewhere
        assert stream.ending is None

    live(test)


def test_a_reader_that_has_its_end_is_not_cut() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        reader = await world.service.read(stream)
        world.generator.generations[0].say("abc", finish="length")
        await world.service.close()
        assert not reader.cut and isinstance(reader.take()[-1], End)

    live(test)


@pytest.mark.parametrize("policy", ["cancel", "continue"])
def test_a_caller_that_leaves_while_the_log_is_told_leaves_a_stream_without_a_reader(policy: str) -> None:
    async def test(world: World) -> None:
        create, told = world.store.create, asyncio.Event()

        async def slow(*arguments: Any) -> str:
            first = await create(*arguments)
            await told.wait()
            return first

        world.store.create = slow  # type: ignore[method-assign, assignment]
        asked, key = request(on_disconnect=policy), Idempotency("key", "digest")
        starting = asyncio.ensure_future(world.service.start(asked, "ann", key))
        await settle()
        starting.cancel()
        await settle()
        assert starting.cancelled() and not world.free()
        told.set()
        await world.clock.advance(4)
        world.store.create = create  # type: ignore[method-assign]
        assert world.free() == (policy == "cancel")
        again = await world.second.service.start(asked, "ann", key)
        world.generator.generations[0].say("abc", finish="length")
        frames = await rest(await world.second.service.read(again))
        assert text(frames) == ("" if policy == "cancel" else "abc") and isinstance(frames[-1], End)

    live(test)


def test_ready_only_while_the_store_answers() -> None:
    async def test(world: World) -> None:
        assert not world.service.ready(), "its model is not known yet"
        await world.service.load()
        await world.clock.advance(1)
        assert world.service.ready()
        renew = world.store.renew

        async def away(*_: object) -> list[Order]:
            raise StoreUnavailable("no answer")

        world.store.renew = away  # type: ignore[assignment]
        await world.clock.advance(2)
        assert not world.service.ready()
        world.store.renew = renew  # type: ignore[method-assign]
        await world.clock.advance(1)
        assert world.service.ready()

    live(test)
