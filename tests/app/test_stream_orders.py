"""Streams that are stopped and changed while they run: through any process, through the deaths of generators and producers."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import (
    InvalidRequest,
    PromptTooLong,
    ServiceError,
    StoreUnavailable,
    StreamEnded,
    StreamNotFound,
)
from app.schema.fields import MAX_STOP_STRING_LENGTH, MAX_STOP_STRINGS
from app.schema.frames import Delta, End, Frame
from app.streams.memory_store import MemoryStreamStore
from app.streams.store import MAX_UNSTORED_TOKENS, Order, Rejection
from app.streams.store_bounds import StoreBounds
from tests.fakes.clock import settle
from tests.fakes.generator import encode
from tests.fakes.requests import request
from tests.fakes.services import Ingress, World, live, rest, text


def steered(frames: list[Frame]) -> list[str]:
    return [frame.text for frame in frames if isinstance(frame, Delta) and frame.steered]


def by(world: World, which: str) -> Ingress:
    """`here` produces the stream, `elsewhere` does not."""
    return world.first if which == "here" else world.second


@pytest.mark.parametrize("which", ["here", "elsewhere"])
def test_stopping_is_an_ending_of_its_own(which: str) -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        reading = asyncio.ensure_future(rest(await world.service.read(stream)))
        world.generator.generations[0].say("ab")
        await settle()
        stopping = asyncio.ensure_future(by(world, which).service.stop(stream.id))
        for _ in range(4):
            await world.clock.advance(0.5)
        status = await stopping
        assert status.choices is not None and status.choices[0].finish_reason == "stop"
        end = (await reading)[-1]
        assert isinstance(end, End) and end.choices[0].stop_reason is None
        assert (await by(world, which).service.stop(stream.id)).choices == status.choices
        assert (await by(world, which).service.cancel(stream.id)).choices == status.choices

    live(test)


@pytest.mark.parametrize("which", ["here", "elsewhere"])
def test_stop_strings_added_in_mid_inference(which: str) -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(stop=("!",)))
        generation = world.generator.generations[0]
        generation.say("one END ")
        here = asyncio.ensure_future(rest(await world.service.read(stream)))
        elsewhere = asyncio.ensure_future(rest(await world.second.service.resume(stream.id)))
        await settle()
        service = by(world, which).service
        for _ in range(2):
            await service.add_stops(stream.id, ["END", "!", "END"])
        await world.clock.advance(0.1)
        generation.say("two END three")
        await world.clock.advance(0.5)
        for reading in (here, elsewhere):
            frames = await reading
            assert text(frames) == "one END two "
            assert isinstance(frames[-1], End) and frames[-1].choices[0].stop_reason == "END"
        assert len(stream.choices[0].edits) == 1

    live(test)


@pytest.mark.parametrize("which", ["here", "elsewhere"])
def test_text_put_in_is_seen_by_every_reader_and_survives_a_generator(which: str) -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(n=2))
        first = world.generator.generations[0]
        first.say("ab")
        here = asyncio.ensure_future(rest(await world.service.read(stream)))
        elsewhere = asyncio.ensure_future(rest(await world.second.service.resume(stream.id)))
        await settle()
        await by(world, which).service.steer(stream.id, "XYZ")
        await world.clock.advance(0.1)
        (steering,) = first.steerings
        assert steering.token_ids == encode("XYZ")
        first.sink.lost()
        await settle()
        second = world.generator.generations[1]
        assert second.steerings == [steering]
        for choice in range(2):
            second.put_in(steering, choice=choice)
        await world.clock.advance(0.1)
        second.sink.lost()
        await settle()
        third = world.generator.generations[2]
        assert third.steerings == [] and third.job.steered == [5, 3]
        for choice in range(2):
            third.say("c", choice=choice, finish="length")
        await world.clock.advance(1)
        for reading in (here, elsewhere):
            frames = await reading
            assert steered(frames) == ["XYZ", "XYZ"]
            assert "".join(f.text for f in frames if isinstance(f, Delta) and f.index == 0) == "abXYZc"

    live(test)


def test_a_change_survives_its_producer() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(max_tokens=200, on_disconnect="continue"))
        world.generator.generations[0].say("ab")
        await world.clock.advance(0.1)
        world.first.running.cancel()
        await settle()
        await world.second.service.steer(stream.id, "XY")
        await world.second.service.add_stops(stream.id, ["END"])
        reader = await world.second.service.resume(stream.id, "4")
        reading = asyncio.ensure_future(rest(reader))
        for _ in range(10):
            await world.clock.advance(0.5)
        (generation,) = world.second.generator.generations
        # Whoever read from the first producer may have seen more than was logged: that is made again, unchanged.
        assert generation.steerings == []
        generation.say("c" * MAX_UNSTORED_TOKENS)
        await world.clock.advance(0.1)
        (steering,) = generation.steerings
        generation.put_in(steering)
        generation.say(" END d")
        await world.clock.advance(0.1)
        frames = await reading
        assert steered(frames) == ["XY"]
        assert text(frames) == "c" * (MAX_UNSTORED_TOKENS - 2) + "XY "

    live(test)


def test_a_driver_that_lost_its_lease_shows_nothing_that_it_changed_alone() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        generation = world.generator.generations[0]
        reader = await world.service.read(stream)
        generation.say("ab")
        await world.clock.advance(0.1)
        append = world.store.append

        async def taken_over(producer: str, appends: list[object]) -> list[Rejection]:
            return [Rejection(stream.id, "stale")] if producer == "i1" and appends else []

        world.store.append = taken_over  # type: ignore[assignment, method-assign]
        await world.service.steer(stream.id, "XY")
        generation.put_in(generation.steerings[0])
        assert steered(reader.take()) == []
        await world.clock.advance(0.1)
        world.store.append = append  # type: ignore[method-assign]
        assert reader.cut and reader.take() == []

    live(test)


@pytest.mark.parametrize("which", ["here", "elsewhere"])
def test_what_can_not_be_changed(which: str) -> None:
    async def test(world: World) -> None:
        service = by(world, which).service
        stream = await world.service.start(request(stop=("!",)), "ann")
        await settle()
        for wrong in ([], [""], ["x" * (MAX_STOP_STRING_LENGTH + 1)]):
            with pytest.raises(InvalidRequest) as refused:
                await service.add_stops(stream.id, wrong, "ann")
            assert refused.value.param == "stop"
        with pytest.raises(InvalidRequest):
            await service.add_stops(stream.id, [str(n) for n in range(MAX_STOP_STRINGS)], "ann")
        with pytest.raises(InvalidRequest) as empty:
            await service.steer(stream.id, "", "ann")
        with pytest.raises(PromptTooLong) as long:
            await service.steer(stream.id, "x" * 2049, "ann")
        assert empty.value.param == long.value.param == "text"
        for owner, found in (("bob", stream.id), ("ann", "st_x")):
            with pytest.raises(StreamNotFound):
                await service.add_stops(found, ["x"], owner)
            with pytest.raises(StreamNotFound):
                await service.steer(found, "x", owner)
            with pytest.raises(StreamNotFound):
                await service.stop(found, owner)
        assert world.generator.generations[0].steerings == []
        await world.service.cancel(stream.id, "ann")
        await world.clock.advance(0.1)
        for changing in (service.add_stops(stream.id, ["x"], "ann"), service.steer(stream.id, "x", "ann")):
            with pytest.raises(StreamEnded) as ended:
                await changing
            assert (ended.value.code, ended.value.http_status) == ("stream_ended", 409)

    live(test)


def test_a_stream_that_ends_meanwhile_is_not_changed() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        reader = await world.second.service.resume(stream.id)
        world.generator.generations[0].say("a", finish="length")
        changing = asyncio.ensure_future(world.second.service.add_stops(stream.id, ["x"]))
        await world.clock.advance(0.1)
        try:
            await changing
        except ServiceError as error:
            assert isinstance(error, StreamEnded)
        reader.close()
        assert stream.choices[0].edits == []

    live(test)


def test_an_order_of_which_nobody_knows_whether_it_arrived_is_one_order() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        order, calls = world.store.order, 0

        async def doubtful(one: Order) -> bool:
            nonlocal calls
            calls += 1
            given = await order(one)
            if calls < 3:
                raise StoreUnavailable("no answer")
            return given

        world.store.order = doubtful  # type: ignore[method-assign, assignment]
        steering = asyncio.ensure_future(world.service.steer(stream.id, "X"))
        for _ in range(6):
            await world.clock.advance(0.5)
        await steering
        await world.clock.advance(2)
        assert (calls, len(world.generator.generations[0].steerings)) == (3, 1)
        calls = -10
        with pytest.raises(StoreUnavailable):
            failing = asyncio.ensure_future(world.service.steer(stream.id, "Y"))
            for _ in range(6):
                await world.clock.advance(0.5)
            await failing
        await world.service.cancel(stream.id)

    live(test)


def test_an_order_that_got_lost_on_its_way_is_given_again() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        await settle()
        renew, lost = world.store.renew, 0

        async def lossy(producer: str, wait_s: float) -> list[Order]:
            nonlocal lost
            orders = await renew(producer, wait_s)
            if producer == "i1" and orders and not lost:
                lost += 1
                raise StoreUnavailable("the answer is lost")
            return orders

        await world.clock.advance(1.1)
        world.store.renew = lossy  # type: ignore[method-assign]
        await world.clock.advance(1.1)
        await world.second.service.steer(stream.id, "X")
        for _ in range(4):
            await world.clock.advance(1)
        assert lost == 1
        assert len(world.generator.generations[0].steerings) == 1
        await world.service.cancel(stream.id)

    live(test)


def test_an_order_that_comes_before_the_lease_is_carried_out() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(on_disconnect="continue"))
        await world.clock.advance(0.1)
        world.first.running.cancel()
        await settle()
        await world.second.service.add_stops(stream.id, ["END"])
        take, told = world.store.take, asyncio.Event()

        async def slow(stream_id: str, producer: str) -> int | None:
            epoch = await take(stream_id, producer)
            await told.wait()
            return epoch

        world.store.take = slow  # type: ignore[method-assign, assignment]
        for _ in range(5):
            await world.clock.advance(1)
        # From now on no order is given twice.
        world.store._changing.clear()
        told.set()
        await settle()
        (generation,) = world.second.generator.generations
        generation.say("c" * 58 + "END")
        await world.clock.advance(0.1)
        status = await world.second.service.status(stream.id)
        assert status.state == "running", (
            "a change waits for what readers of the first producer may have seen"
        )
        assert world.second.service._producer.streams[stream.id].changes.stops == {"END"}
        await world.second.service.cancel(stream.id)

    live(test)


def test_a_log_that_lost_its_memory_is_told_the_changes_anew() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        generation = world.generator.generations[0]
        await world.service.add_stops(stream.id, ["END"])
        generation.say("ab")
        await world.clock.advance(0.1)
        empty = MemoryStreamStore(StoreBounds(), world.clock)
        world.store.__dict__.update(empty.__dict__)
        await world.service.steer(stream.id, "X")
        generation.put_in(generation.steerings[0])
        await world.clock.advance(0.5)
        reading = asyncio.ensure_future(rest(await world.second.service.resume(stream.id)))
        generation.say("c END")
        await world.clock.advance(1)
        frames = await reading
        assert (text(frames), steered(frames)) == ("abXc ", ["X"])

    live(test)
