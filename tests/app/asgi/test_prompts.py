"""Completions of several prompts in one request, and `echo`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from app.errors import GeneratorUnavailable
from app.schema.tokens import TokenBatch, TokenLogprob
from app.settings import LimitsSettings
from tests.app.asgi.test_application import World, check_error, live
from tests.fakes.clock import settle

PATH = "/v1/completions"
PROMPTS = ["one", "two", "three"]


def chunks(body: str) -> list[dict[str, Any]]:
    """The chunks of a streamed answer, which has one end."""
    *events, done, nothing = body.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "") and not any("[DONE]" in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


def texts(answer: list[dict[str, Any]]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in answer:
        for choice in chunk["choices"]:
            found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    return found


@pytest.mark.parametrize("prompts", [PROMPTS, [[1], [2, 3], [4, 5, 6]]])
def test_choices_are_numbered_prompt_by_prompt(prompts: list[Any]) -> None:
    async def test(world: World) -> None:
        answer = (await world.post(PATH, {"prompt": prompts, "n": 2, "seed": 5})).json()
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
        assert {(choice["text"], choice["finish_reason"]) for choice in answer["choices"]} == {
            ("ok", "length")
        }
        given = sum(map(len, prompts))
        usage = {"prompt_tokens": given, "completion_tokens": 12, "total_tokens": given + 12}
        assert answer["usage"] == {**usage, "prompt_tokens_details": {"cached_tokens": 0}}
        assert answer["seed"] == 5
        jobs = [generation.job for generation in world.generator.generations]
        assert [job.sampling.seed for job in jobs] == [5, 6, 7]
        asked = [
            [ord(letter) for letter in prompt] if isinstance(prompt, str) else prompt for prompt in prompts
        ]
        assert [job.prompt for job in jobs] == asked

    live(test)


def test_every_choice_has_its_own_text_streamed_and_not() -> None:
    async def test(world: World) -> None:
        world.generator.answer, world.generator.capacity = None, 100
        asked = {"prompt": PROMPTS, "n": 2, "max_tokens": 10, "seed": 1}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        streamed = asyncio.ensure_future(world.post(PATH, {**asked, **options}))
        await settle()
        folded = asyncio.ensure_future(world.post(PATH, asked))
        await settle()
        generations = world.generator.generations
        assert len(generations) == 6
        for part in ("x", "y"):
            for number, generation in reversed(list(enumerate(generations))):
                for choice in range(2):
                    name = "abc"[number % 3]
                    generation.say(
                        f"{name}{choice}{part}", choice=choice, finish="length" if part == "y" else None
                    )
            await settle()
        expected = {
            2 * number + choice: f"{name}{choice}x{name}{choice}y"
            for number, name in enumerate("abc")
            for choice in (0, 1)
        }
        answer = (await folded).json()
        assert {choice["index"]: choice["text"] for choice in answer["choices"]} == expected
        got = chunks((await streamed).text)
        assert texts(got) == expected
        assert len({(chunk["id"], chunk["created"], chunk["stream_id"]) for chunk in got}) == 1
        finishes = [
            choice["index"] for chunk in got for choice in chunk["choices"] if choice["finish_reason"]
        ]
        assert sorted(finishes) == list(range(6))
        assert got[-1]["choices"] == [] and got[-1]["usage"] == answer["usage"]
        assert answer["usage"]["prompt_tokens"] == 11 and answer["usage"]["completion_tokens"] == 36

    live(test)


def test_what_is_ready_of_several_prompts_is_written_together() -> None:
    async def test(world: World) -> None:
        world.generator.answer = None
        sent: list[dict[str, Any]] = []
        response = asyncio.ensure_future(call(world, sent))
        await settle()
        before = len(sent)
        for generation in world.generator.generations:
            generation.say("a")
        await settle()
        assert len(sent) == before + 1 and sent[-1]["body"].count(b"data:") == len(PROMPTS)
        response.cancel()
        await asyncio.gather(response, return_exceptions=True)
        await settle()

    live(test)


async def call(world: World, sent: list[dict[str, Any]], gone: asyncio.Event | None = None) -> None:
    """A streamed answer without a client in between: `sent` gets its messages, `gone` says that the client has left."""
    body = json.dumps({"prompt": PROMPTS, "stream": True}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers, "query_string": b""}
    await world.app({**scope, "asgi": {"version": "3.0"}, "http_version": "1.1"}, receive, send)


def test_a_client_that_leaves_ends_all() -> None:
    async def test(world: World) -> None:
        world.generator.answer = None
        gone = asyncio.Event()
        response = asyncio.ensure_future(call(world, [], gone))
        await settle()
        assert len(world.generator.running) == len(PROMPTS)
        gone.set()
        await response
        await settle()
        assert not world.generator.running

    live(test)


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_of_one_ends_all(stream: bool) -> None:
    async def test(world: World) -> None:
        world.generator.answer = None
        asked = asyncio.ensure_future(world.post(PATH, {"prompt": PROMPTS, "stream": stream}))
        await settle()
        first, second, third = world.generator.generations
        first.say("done", finish="stop")
        second.say("", finish="error")
        third.say("a")
        response = await asked
        if stream:
            assert response.status_code == 200
            assert "event: error\n" in response.text and '"code":"generation_failed"' in response.text
            assert response.text.endswith("data: [DONE]\n\n") and response.text.count("[DONE]") == 1
        else:
            check_error(response, 500, "generation_failed")
        await settle()
        assert not world.generator.running

    live(test)


def test_all_are_started_or_none() -> None:
    async def test(world: World) -> None:
        world.generator.capacity = 5
        refused = await world.post(PATH, {"prompt": PROMPTS, "n": 2})
        check_error(refused, 503, "overloaded")
        assert not world.tokenizer.encoded and not world.generator.generations
        world.generator.answer = None
        check_error(
            await world.post(PATH, {"prompt": ["one", "two", "x" * 90]}),
            400,
            "context_length_exceeded",
            "prompt",
        )
        await settle()
        assert not world.generator.running
        world.generator.refuse_next = 1
        check_error(await world.post(PATH, {"prompt": PROMPTS}), 503, GeneratorUnavailable.code)
        await settle()
        assert not world.generator.running

    live(test)


def test_a_client_that_leaves_before_the_start_leaves_nothing() -> None:
    async def test(world: World) -> None:
        world.generator.hangs = True
        asked = asyncio.ensure_future(call(world, []))
        await settle()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await settle()
        assert world.service.statistics() == {"produced": 0, "followed": 0, "sequences": 0}

    live(test)


def test_what_goes_with_one_prompt_only_is_refused_by_name() -> None:
    async def test(world: World) -> None:
        keyed = await world.post(PATH, {"prompt": PROMPTS}, **{"idempotency-key": "k"})
        check_error(keyed, 400, "invalid_request", "Idempotency-Key")
        many = await world.post(PATH, {"prompt": ["a"] * (LimitsSettings().max_streams_per_connection + 1)})
        check_error(many, 400, "invalid_request", "prompt")
        assert (await world.post(PATH, {"prompt": ["one"]}, **{"idempotency-key": "k"})).status_code == 200

    live(test)


@pytest.mark.parametrize("stream", [True, False])
def test_text_offsets_are_those_of_each_choice(stream: bool) -> None:
    async def test(world: World) -> None:
        world.generator.answer = None
        asked = asyncio.ensure_future(world.post(PATH, {"prompt": PROMPTS, "logprobs": 0, "stream": stream}))
        await settle()
        for generation in world.generator.generations:
            job, found = generation.job, [TokenLogprob(-1.0, [])] * 2
            generation.sink.feed(TokenBatch(job.key, 0, 0, [97, 98], "length", logprobs=found))
        response = await asked
        offsets: dict[int, list[int]] = {}
        for answer in chunks(response.text) if stream else [response.json()]:
            for choice in answer["choices"]:
                if choice["logprobs"]:
                    offsets.setdefault(choice["index"], []).extend(choice["logprobs"]["text_offset"])
        assert offsets == {0: [0, 1], 1: [0, 1], 2: [0, 1]}

    live(test)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi, ", ["hi, ok"] * 2),
        (["hi, "], ["hi, ok"] * 2),
        ([104, 105], ["hiok"] * 2),
        (["a", "b"], ["aok", "aok", "bok", "bok"]),
        ([[97], [98]], ["aok", "aok", "bok", "bok"]),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_echo_begins_each_choice_with_its_prompt(prompt: Any, expected: list[str], stream: bool) -> None:
    async def test(world: World) -> None:
        response = await world.post(
            PATH, {"prompt": prompt, "n": 2, "echo": True, "stream": stream, "max_tokens": 2}
        )
        answers = chunks(response.text) if stream else [response.json()]
        assert list(texts(answers).values()) == expected
        if not stream:
            assert answers[0]["usage"]["completion_tokens"] == 2 * len(expected)

    live(test)


def test_echo_of_tokens_that_the_model_does_not_have_is_refused() -> None:
    async def test(world: World) -> None:
        response: httpx.Response = await world.post(PATH, {"prompt": [97, 5000], "echo": True})
        assert response.status_code == 400

    live(test)
