"""Streams of a model that has no replica until somebody asks."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import GeneratorUnavailable
from app.schema.frames import Delta, End, Error, Start
from tests.fakes.clock import settle
from tests.fakes.requests import request
from tests.fakes.services import World, live


def fall_asleep(world: World) -> asyncio.Future[None]:
    """The generators have no replica until the future is done."""
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for ingress in (world.first, world.second):
        ingress.generator.asleep = True
        ingress.generator.woken = woken
    return woken


def test_a_stream_begins_before_its_replica_has_started() -> None:
    async def test(world: World) -> None:
        woken = fall_asleep(world)
        stream = await world.service.start(request(seed=4))
        reader = await world.service.read(stream)
        assert [type(frame) for frame in reader.take()] == [Start]
        await world.clock.advance(200)
        assert not world.generator.generations and world.generator.waking == 1
        woken.set_result(None)
        await settle()
        world.generator.generations[0].say("abc", finish="length")
        assert [type(frame) for frame in reader.take()] == [Delta, End]
        await settle()

    live(test)


def test_a_stream_whose_replica_does_not_start_ends_with_the_error() -> None:
    async def test(world: World) -> None:
        woken = fall_asleep(world)
        stream = await world.service.start(request())
        await settle()
        woken.set_exception(GeneratorUnavailable("No replica of the model has started."))
        await settle()
        assert isinstance(stream.ending, Error)
        assert (stream.ending.cursor, stream.ending.error.code) == ("0", "generator_unavailable")
        assert world.free()

    live(test)


@pytest.mark.parametrize("cancelled_by", ["reader", "order", "service"])
def test_a_stream_that_ends_while_it_waits_waits_no_longer(cancelled_by: str) -> None:
    async def test(world: World) -> None:
        woken = fall_asleep(world)
        stream = await world.service.start(request(on_disconnect="cancel"))
        reader = await world.service.read(stream)
        await settle()
        assert world.generator.waking == 1
        if cancelled_by == "reader":
            reader.close()
        elif cancelled_by == "order":
            await world.service.cancel(stream.id)
        else:
            await world.service.close()
        await settle()
        assert world.first.free()
        woken.set_result(None)  # if another process goes on with it
        await world.clock.advance(4)
        for generation in world.second.generator.generations:
            generation.say("", finish="stop")
        await settle()

    live(test)


def test_a_stream_that_loses_its_only_replica_waits_for_the_next() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        world.generator.generations[0].say("abc")
        woken = fall_asleep(world)
        world.generator.generations[0].sink.lost()
        await world.clock.advance(60)
        assert stream.ending is None and world.generator.waking == 1
        woken.set_result(None)
        await settle()
        assert world.generator.generations[1].job.generated == [[97, 98, 99]]
        world.generator.generations[1].say("d", finish="length")
        await settle()
        assert isinstance(stream.ending, End)

    live(test)
