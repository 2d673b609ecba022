"""Streams and several processes: read, cancelled and taken over elsewhere, and a store that is away."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import pytest

from app.errors import (
    Draining,
    IdempotencyConflict,
    InvalidCursor,
    StoreUnavailable,
    StreamNotFound,
)
from app.schema.frames import End
from app.schema.native import StreamBody
from app.schema.sampling import SamplingDefaults
from app.service import LAG_S
from app.settings import LimitsSettings
from app.streams.learning import Learning
from app.streams.store import MAX_UNSTORED_TOKENS, Excerpt, Idempotency, Rejection
from app.streams.stream import Stream
from app.validation import parse_object
from tests.fakes.clock import settle
from tests.fakes.requests import request
from tests.fakes.services import World, live, rest, text


def test_a_stream_is_read_through_any_process_while_it_runs_and_after() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        generation = world.generator.generations[0]
        generation.say("abc")
        await settle()
        elsewhere = asyncio.ensure_future(rest(await world.second.service.resume(stream.id, "1")))
        here = asyncio.ensure_future(rest(await world.service.resume(stream.id, "2")))
        generation.say("de")
        await settle()
        generation.say("f", finish="length")
        await settle()
        assert text(await here) == "cdef"
        assert text(await elsewhere) == "bcdef"
        for service in (world.service, world.second.service):
            for after, expected in ((None, "abcdef"), ("4", "ef"), ("6", "")):
                frames = await rest(await service.resume(stream.id, after))
                assert (text(frames), frames[-1]) == (expected, stream.ending)
            with pytest.raises(InvalidCursor):
                await service.resume(stream.id, "7")

    live(test)


@pytest.mark.parametrize("state", ["running", "followed", "ended"])
@pytest.mark.parametrize("name", ["resume", "cancel", "status"])
def test_a_stream_of_another_owner_is_like_one_that_never_was(name: str, state: str) -> None:
    """The same answer after the same work, wherever the stream is known: neither words nor time tell them apart."""

    async def test(world: World) -> None:
        stream = await world.service.start(request(), owner="ann")
        if state == "followed":
            (await world.second.service.resume(stream.id, owner="ann")).close()
        if state == "ended":
            world.generator.generations[-1].say("a", finish="length")
            await settle()
        for ingress in (world.first, world.second):
            call = getattr(ingress.service, name)
            answers = []
            for stream_id in (stream.id, "st_nothing"):
                world.asked.clear()
                with pytest.raises(StreamNotFound) as refused:
                    await call(stream_id, owner="bob")
                answers.append((refused.value.body(), [*world.asked]))
            assert answers[0] == answers[1]
            assert answers[0][1] == ["record"]
        assert (stream.ending is None) == (state != "ended")

    live(test)


def test_a_stream_is_cancelled_from_anywhere_and_again() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        world.generator.generations[0].say("ab")
        cancelling = asyncio.ensure_future(world.second.service.cancel(stream.id))
        await settle()
        assert (await cancelling).state == "ended"
        assert isinstance(stream.ending, End) and stream.ending.choices[0].finish_reason == "cancelled"
        assert world.free()
        for service in (world.service, world.second.service):
            status = await service.cancel(stream.id)
            assert (status.cursor, status.usage.completion_tokens) == ("2", 2)

    live(test)


def test_a_stream_that_is_taken_over_keeps_the_sampling_defaults_that_it_began_with() -> None:
    async def test(world: World) -> None:
        for ingress, temperature in ((world.first, 0.6), (world.second, 0.9)):
            ingress.tokenizer.card = msgspec.structs.replace(
                ingress.tokenizer.card, sampling_defaults=SamplingDefaults(temperature=temperature)
            )
        asked = parse_object(StreamBody, {"prompt": "hello", "top_p": 0.5})
        stream = await world.service.start(asked.to_request(LimitsSettings(), "letters"))
        sampling = world.generator.generations[0].job.sampling
        assert (sampling.temperature, sampling.top_p) == (0.6, 0.5)
        await settle()
        world.first.running.cancel()
        await settle()
        reader = asyncio.ensure_future(rest(await world.second.service.resume(stream.id)))
        await world.clock.advance(4)
        taken = world.second.generator.generations[0]
        assert taken.job.sampling == sampling
        taken.say("a", finish="length")
        await reader

    live(test)


@pytest.mark.parametrize("unstored", [0, 2])
def test_when_the_driving_process_dies_another_goes_on_with_the_same_text(unstored: int) -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(seed=5))
        generation = world.generator.generations[0]
        generation.say("abc")
        await settle()
        world.first.running.cancel()
        await settle()
        if unstored:
            generation.say("de")
        reader = asyncio.ensure_future(rest(await world.second.service.resume(stream.id, str(3 + unstored))))
        await world.clock.advance(4)
        taken = world.second.generator.generations[0]
        assert taken.job.generated == [[97, 98, 99]] and taken.job.sampling.seed == 5
        taken.say("d")
        taken.say("ef", finish="length")
        frames = await reader
        assert text(frames) == "def"[unstored:]
        assert isinstance(frames[-1], End)
        assert frames[-1].text_sha256 == [hashlib.sha256(b"abcdef").hexdigest()]

    live(test)


def test_a_stream_that_goes_on_without_a_reader_is_finished_by_another_process() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(on_disconnect="continue"))
        (await world.service.read(stream)).close()
        world.generator.generations[0].say("abc")
        await settle()
        await world.first.die()
        await world.clock.advance(5)
        world.second.generator.generations[0].say("d", finish="stop")
        await settle()
        assert text(await rest(await world.second.service.resume(stream.id))) == "abc"

    live(test)


def test_a_driver_that_lost_its_lease_stops_and_its_readers_follow() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        reader = asyncio.ensure_future(rest(await world.service.read(stream)))
        world.generator.generations[0].say("abc")
        await settle()
        assert await world.store.take(stream.id, "i2") is None
        world.store._leases["i1"] = 0.0
        other = asyncio.ensure_future(rest(await world.second.service.resume(stream.id)))
        await world.clock.advance(1)
        world.generator.generations[0].say("X")
        await settle()
        assert world.first.free()
        world.second.generator.generations[0].say("def", finish="length")
        await world.clock.advance(1)
        assert text(await other) == "abcdef"
        assert (await reader)[-1] == stream.ending

    live(test)


def test_a_retry_with_the_same_key_gives_the_same_stream() -> None:
    async def test(world: World) -> None:
        key = Idempotency("key", "digest")
        first = await world.service.start(request(), "ann", key)
        again = await world.service.start(request(), "ann", key)
        elsewhere = await world.second.service.start(request(), "ann", key)
        assert first is again and first.id == elsewhere.id
        assert len(world.generator.running) == 1 and not world.second.generator.running
        with pytest.raises(IdempotencyConflict):
            await world.service.start(request("other"), "ann", Idempotency("key", "other"))
        first.cancel()
        await world.clock.advance(4)

    live(test)


async def forgotten(world: World) -> Stream:
    """A stream with the text "abc", of which the store knows nothing any more."""
    stream = await world.service.start(request())
    world.generator.generations[0].say("abc")
    await settle()
    world.store._streams.clear()
    world.store._running.clear()
    return stream


def test_a_log_that_forgets_is_told_again() -> None:
    async def test(world: World) -> None:
        stream = await forgotten(world)
        world.generator.generations[0].say("d", finish="length")
        await settle()
        assert text(await rest(await world.second.service.resume(stream.id))) == "abcd"

    live(test)


def test_a_log_that_forgets_is_told_of_streams_that_gain_nothing_before_it_calls_them_unknown() -> None:
    async def test(world: World) -> None:
        stream = await forgotten(world)
        world.store._learning = learning = Learning(["i1", "i2", "i3"])
        elsewhere = asyncio.ensure_future(world.second.service.resume(stream.id, "2"))
        unknown = asyncio.ensure_future(world.second.service.resume("st_x"))
        await world.clock.advance(3)
        reader = await elsewhere
        assert not unknown.done(), "the third process has not told yet"
        learning.keep(["i1", "i2"])
        await world.clock.advance(1)
        assert isinstance(unknown.exception(), StreamNotFound)
        world.generator.generations[0].say("d", finish="length")
        await world.clock.advance(1)
        assert text(await rest(reader)) == "cd"

    live(test)


def test_readers_outlast_a_log_that_is_away_for_a_while_and_are_cut_when_it_stays_away() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        elsewhere = asyncio.ensure_future(rest(await world.second.service.resume(stream.id)))
        await settle()
        read = world.store.read

        async def away(*_: object) -> Excerpt:
            raise StoreUnavailable("no answer")

        world.store.read = away  # type: ignore[assignment]
        world.generator.generations[0].say("abc")
        await world.clock.advance(5)
        assert not elsewhere.done()
        world.store.read = read  # type: ignore[method-assign]
        await world.clock.advance(1)
        reader = await world.second.service.resume(stream.id, "3")
        assert [type(frame) for frame in reader.take()] == []
        world.store.read = away  # type: ignore[assignment]
        await world.clock.advance(12)
        with pytest.raises(Draining):
            await elsewhere
        assert reader.cut and stream.ending is None

    live(test)


def test_a_reader_waits_elsewhere_for_a_log_that_lags_behind_what_it_has() -> None:
    """The store was away while the producer's reader went on, or took long to take the new stream."""

    async def test(world: World) -> None:
        stream = await world.service.start(request(seed=5))
        append = world.store.append

        async def away(*_: object) -> list[Rejection]:
            raise StoreUnavailable("It is away.")

        world.store.append = away  # type: ignore[assignment]
        world.generator.generations[0].say("a" * 3 * MAX_UNSTORED_TOKENS)
        resumed = world.second.service.resume(stream.id, str(3 * MAX_UNSTORED_TOKENS - 1))
        elsewhere = asyncio.ensure_future(resumed)
        await world.clock.advance(2)
        assert not elsewhere.done()
        world.store.append = append  # type: ignore[method-assign]
        await world.clock.advance(2)
        world.generator.generations[0].say("b", finish="length")
        assert text(await rest(await elsewhere)) == "ab"

    live(test)


def test_a_cursor_that_a_running_stream_does_not_reach_is_refused_in_the_end() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        world.generator.generations[0].say("abc")
        refused = asyncio.ensure_future(world.second.service.resume(stream.id, "1000"))
        await world.clock.advance(LAG_S - 1)
        assert not refused.done()
        await world.clock.advance(2)
        with pytest.raises(InvalidCursor):
            await refused
        with pytest.raises(InvalidCursor):
            await world.service.resume(stream.id, "4")  # the producer knows at once
        stream.cancel()
        await world.clock.advance(1)

    live(test)


def test_a_reader_of_a_producer_that_died_is_not_refused_by_the_one_that_took_over() -> None:
    """It comes when the stream has been taken over, and has tokens that the store never got."""

    async def test(world: World) -> None:
        stream = await world.service.start(request(seed=5, on_disconnect="continue"))
        world.generator.generations[0].say("abc")
        await settle()
        await world.first.die()
        await world.clock.advance(5)
        taken = world.second.generator.generations[0]
        assert taken.job.generated == [[97, 98, 99]]
        reader = asyncio.ensure_future(rest(await world.second.service.resume(stream.id, "5")))
        taken.say("de")
        taken.say("f", finish="length")
        assert text(await reader) == "f"

    live(test)


def test_a_cancel_reaches_a_stream_whose_driver_is_gone() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        world.generator.generations[0].say("ab")
        await settle()
        await world.first.die()
        cancelling = asyncio.ensure_future(world.second.service.cancel(stream.id))
        for _ in range(10):
            await world.clock.advance(1)
        status = await cancelling
        assert (status.state, status.cursor) == ("ended", "2")
        assert status.choices is not None and status.choices[0].finish_reason == "cancelled"
        assert world.second.free()

    live(test)
