"""A request that kills every replica that computes it, and its neighbours: everything but Ray is real."""

from __future__ import annotations

import asyncio

import pytest

from app.schema.frames import End, Error
from app.schema.requests import GenerationRequest
from tests.fakes.graph import POISON, Graph, graph, reached, text
from tests.fakes.real_time import until
from tests.fakes.requests import request
from tests.fakes.services import rest

NEIGHBOURS = 10
TOKENS = 300


@pytest.mark.parametrize("beside", ["running", "beginning"])
def test_a_poison_is_given_up_after_two_replicas_and_takes_nobody_along(beside: str) -> None:
    async def main() -> None:
        async with graph("abcd") as one:
            undisturbed = await _texts(one)
            one.use("a")
            streams = [await one.services[index % 2].start(_neighbour(index)) for index in range(NEIGHBOURS)]
            if beside == "running":
                for stream in streams:
                    await reached(stream, 5)
            poison = await one.services[0].start(request(max_tokens=TOKENS, seed=POISON))
            one.use("a", "b", "c", "d")
            ends = await asyncio.gather(*(rest(stream.readers.join()) for stream in [*streams, poison]))
            error = ends.pop()[-1]
            assert isinstance(error, Error)
            assert (error.error.code, error.error.retryable, error.cursor) == (
                "generation_failed",
                False,
                "0",
            )
            assert len(one.killed) == 2 and one.killed[0] == "a"
            assert [text(frames, 0) for frames in ends] == undisturbed
            assert all(isinstance(frames[-1], End) for frames in ends)

    asyncio.run(main())


def test_a_poison_that_kills_later_is_found_in_its_own_turn() -> None:
    """Up to its deadly token it looks like its neighbours, and the second replica dies before any of them has a token of it."""

    async def main() -> None:
        async with graph("abcd", kills_at=20) as one:
            undisturbed = await _texts(one)
            one.use("a")
            streams = [await one.services[0].start(_neighbour(index)) for index in range(NEIGHBOURS)]
            poison = await one.services[0].start(request(max_tokens=TOKENS, seed=POISON))
            one.use("b")
            reading = asyncio.gather(*(rest(stream.readers.join()) for stream in [*streams, poison]))
            await until(lambda: one.killed == ["a", "b"])
            one.use("c", "d")
            ends = await reading
            error = ends.pop()[-1]
            assert isinstance(error, Error)
            assert (error.error.code, error.cursor) == ("generation_failed", "20")
            assert len(one.killed) == 3
            assert [text(frames, 0) for frames in ends] == undisturbed

    asyncio.run(main())


async def _texts(one: Graph) -> list[str]:
    streams = [await one.services[0].start(_neighbour(index)) for index in range(NEIGHBOURS)]
    return [text(await rest(stream.readers.join()), 0) for stream in streams]


def _neighbour(index: int) -> GenerationRequest:
    return request(max_tokens=TOKENS, seed=index)
