"""The life of a stream: what is refused before it starts, how it ends, and that its place is always given back."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import pytest

from app.errors import (
    GeneratorUnavailable,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PromptTooLong,
    ServiceError,
)
from app.model import Model
from app.schema.frames import ChoiceEnd, Delta, End, Error, Frame, Start
from app.schema.requests import GenerationRequest
from app.service import GenerationService
from app.settings import ModelSettings, Settings
from tests.fakes.clock import FakeClock, settle
from tests.fakes.generator import FakeGenerator, FakeTokenizer
from tests.fakes.requests import request


class World:
    """A service over fakes."""

    def __init__(self, capacity: int = 8) -> None:
        self.clock = FakeClock()
        self.generator = FakeGenerator(capacity)
        self.tokenizer = FakeTokenizer()
        self.model = Model(ModelSettings(name="letters"), self.tokenizer, self.generator)
        self.service = GenerationService(Settings(), {"letters": self.model}, ingress="i1", clock=self.clock)

    def free(self) -> bool:
        return self.model.admission.sequences == 0 and not self.generator.running


def live(test: Callable[[World], Awaitable[None]], capacity: int = 8) -> None:
    """Runs `test` in a world of its own, at the end of which no stream may hold a place."""

    async def main() -> None:
        world = World(capacity)
        await test(world)
        await world.service.close()
        assert world.free()

    asyncio.run(main())


def test_a_stream_from_start_to_end() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request("hello", seed=7))
        reader = stream.reader()
        generation = world.generator.generations[0]
        assert generation.job.sampling.seed == 7
        assert generation.job.prompt == [104, 101, 108, 108, 111]
        assert generation.job.sampling.max_tokens == 64 - 5
        generation.say("ab")
        generation.say("c", finish="length")
        digest = hashlib.sha256(b"abc").hexdigest()
        frames = reader.take()
        assert frames[:2] == [
            Start("0", stream.id, "letters", 1_790_000_000, 7, 5),
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
        starting = asyncio.ensure_future(world.service.start(request()))
        await asyncio.sleep(0)
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
        with stream.reader() as reader:
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
        first = stream.reader()
        first.close()
        await world.clock.advance(20)
        second = stream.reader(after="0")
        await world.clock.advance(20)
        assert stream.ending is None and not world.free()
        second.close()
        await world.clock.advance(31)
        assert world.free()

    live(test)


def test_a_generator_that_dies_or_raises_ends_the_stream_with_an_error_frame() -> None:
    async def test(world: World) -> None:
        lost, poisoned = await world.service.start(request()), await world.service.start(request())
        for generation in world.generator.generations:
            generation.say("abc")
        world.generator.generations[0].sink.lost()
        world.generator.generations[1].say("", finish="error")
        for stream, code in ((lost, "generator_unavailable"), (poisoned, "generation_failed")):
            frames = stream.reader().take()
            assert [type(frame) for frame in frames] == [Start, Delta, Error]
            assert isinstance(frames[-1], Error)
            assert (frames[-1].cursor, frames[-1].error.code) == ("3", code)
        await settle()
        assert world.free()

    live(test)


def test_a_stream_that_takes_too_long_times_out() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request(timeout_s=0.001))
        frames: list[Frame] = [frame async for frame in stream.reader().frames()]
        assert isinstance(frames[-1], Error) and frames[-1].error.code == "timeout"

    live(test)


def test_closing_the_service_ends_every_stream() -> None:
    async def test(world: World) -> None:
        stream = await world.service.start(request())
        await world.service.close()
        assert isinstance(stream.ending, Error) and stream.ending.error.code == "draining"

    live(test)
