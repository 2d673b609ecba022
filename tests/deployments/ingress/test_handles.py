"""What callers in the cluster get: frames as dicts, and the same errors as everybody else."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    Draining,
    GeneratorUnavailable,
    InvalidCursor,
    InvalidRequest,
    ServiceError,
    StreamNotFound,
)
from app.schema.native import StreamBody
from app.settings import Settings
from app.validation import parse_object
from deployments.ingress.handles import HandleCalls
from tests.cases import validation as cases
from tests.fakes.clock import settle
from tests.fakes.letters_service import LettersService, live

SETTINGS = Settings.model_validate({"models": [{"name": "letters"}]})
HI = {"prompt": "hi", "seed": 1}


def run(test: Callable[[LettersService, HandleCalls], Awaitable[None]]) -> None:
    async def main(letters: LettersService) -> None:
        await test(letters, HandleCalls(letters.service))

    live(SETTINGS, main)


async def collect(frames: AsyncGenerator[dict[str, Any], None]) -> list[dict[str, Any]]:
    return [frame async for frame in frames]


@pytest.mark.parametrize("case", cases.NATIVE, ids=lambda case: case.name)
def test_a_wrong_request_is_refused_as_over_http(case: cases.Refused) -> None:
    with pytest.raises(InvalidRequest) as over_http:
        parse_object(StreamBody, case.body).to_request(SETTINGS.limits, SETTINGS.default_model)

    async def test(letters: LettersService, calls: HandleCalls) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            await calls.generate(case.body, None, None)
        assert refusal.value.body() == over_http.value.body()
        assert refusal.value.param == case.param

    run(test)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({**HI, "stream": False}, InvalidRequest),
        ({"prompt": "x" * (32 * 1_048_576)}, BodyTooLarge),
        ({"prompt": b"hi"}, InvalidRequest),
        ({"prompt": "hi", "stop": {"a"}}, InvalidRequest),
        (object(), InvalidRequest),
    ],
    ids=["not_streamed", "large", "bytes", "set", "object"],
)
def test_what_else_is_refused(request_: Any, error: type[ServiceError]) -> None:
    async def test(letters: LettersService, calls: HandleCalls) -> None:
        with pytest.raises(error):
            await calls.generate(request_, None, None)

    run(test)


def test_the_frames_are_those_of_json() -> None:
    async def test(letters: LettersService, calls: HandleCalls) -> None:
        frames = await calls.generate(HI, None, None)
        start = await anext(frames)
        letters.generation.say("abc", finish="length")
        delta, end = await collect(frames)
        assert start == {
            "type": "start",
            "cursor": "0",
            "stream": start["stream"],
            "model": "letters",
            "created": 1_790_000_000,
            "seed": 1,
            "prompt_tokens": 2,
            "deterministic": True,
        }
        assert delta == {"type": "delta", "cursor": "3", "index": 0, "text": "abc", "tokens": 3}
        assert end["choices"] == [{"index": 0, "finish_reason": "length", "stop_reason": None}]

    run(test)


@pytest.mark.parametrize("said", [None, "grace", "continue"])
def test_a_caller_that_leaves_frees_the_place_unless_it_says_otherwise(said: str | None) -> None:
    async def test(letters: LettersService, calls: HandleCalls) -> None:
        frames = await calls.generate(HI | ({"on_disconnect": said} if said else {}), None, None)
        start = await anext(frames)
        with pytest.raises(asyncio.CancelledError):
            await frames.athrow(asyncio.CancelledError())
        await settle()
        assert bool(letters.generator.running) == bool(said)
        if said:
            assert (await calls.cancel(start["stream"], None))["state"] == "ended"

    run(test)


def test_a_detached_stream_is_resumed_and_cancelled_by_its_name() -> None:
    async def test(letters: LettersService, calls: HandleCalls) -> None:
        [start] = await collect(await calls.generate(HI | {"detach": True}, "mine", None))
        letters.generation.say("abc")
        for wrong in (None, "other"):
            with pytest.raises(StreamNotFound):
                await calls.resume(start["stream"], None, wrong)
            with pytest.raises(StreamNotFound):
                await calls.cancel(start["stream"], wrong)
        with pytest.raises(InvalidCursor):
            await calls.resume(start["stream"], "9", "mine")
        frames = await calls.resume(start["stream"], "1", "mine")
        assert (await anext(frames))["text"] == "bc"
        status = await calls.cancel(start["stream"], "mine")
        assert (status["state"], status["cursor"]) == ("ended", "3")
        assert [frame["type"] for frame in await collect(frames)] == ["end"]

    run(test)


def test_no_key_is_needed_but_a_wrong_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}')
    settings = Settings.model_validate({"models": [{"name": "letters"}], "auth": {"keys_file": str(path)}})

    async def main(letters: LettersService) -> None:
        calls = HandleCalls(letters.service)
        [start] = await collect(await calls.generate(HI | {"detach": True}, None, None))
        with pytest.raises(AuthenticationFailed):
            await calls.resume(start["stream"], None, "bad")
        assert (await calls.cancel(start["stream"], None))["state"] == "ended"

    live(settings, main)


@pytest.mark.parametrize("stream", [None, 5, "", "x" * 200])
def test_what_is_no_name_of_a_stream(stream: Any) -> None:
    async def test(letters: LettersService, calls: HandleCalls) -> None:
        for refused in (calls.resume(stream, None, None), calls.cancel(stream, None)):
            with pytest.raises(InvalidRequest) as refusal:
                await refused
            assert refusal.value.param == "stream"

    run(test)


def test_the_same_key_gives_the_same_stream() -> None:
    async def test(letters: LettersService, calls: HandleCalls) -> None:
        first = await calls.generate(HI, None, "key")
        second = await calls.generate(HI, None, "key")
        assert (await anext(first))["stream"] == (await anext(second))["stream"]
        letters.generation.say("a", finish="length")
        assert await collect(first) == await collect(second)

    run(test)


def test_a_process_that_stops_says_so_and_ends_no_stream() -> None:
    async def test(letters: LettersService, calls: HandleCalls) -> None:
        frames = await calls.generate(HI, None, None)
        await anext(frames)
        await letters.service.close()
        with pytest.raises(Draining):
            await anext(frames)

    run(test)


def test_errors_survive_the_way_to_another_process() -> None:
    error = GeneratorUnavailable("Gone.", param="model", retry_after_s=3)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is GeneratorUnavailable
    assert (copy.message, copy.param, copy.retry_after_s, str(copy)) == ("Gone.", "model", 3, "Gone.")
