"""The routes, from the request's bytes to the response's: statuses, shapes, headers, exact bodies."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from app.asgi.application import build_app
from app.errors import (
    GenerationFailed,
    GeneratorUnavailable,
    Overloaded,
    RequestTimeout,
    ServiceError,
    TooManyStreams,
)
from app.model import Model
from app.ports import TokenSink
from app.schema.sampling import SamplingDefaults
from app.schema.tokens import EngineFinish, Job
from app.service import GenerationService
from app.settings import ModelSettings, Settings
from tests.fakes.clock import FakeClock, settle
from tests.fakes.generator import FakeGeneration, FakeGenerator, FakeTokenizer
from tests.fakes.store import memory_store

MAX_BODY_BYTES = 2000
LIMITS = {"max_body_bytes": MAX_BODY_BYTES, "max_held_body_bytes": 2 * MAX_BODY_BYTES - 1200}
JSON = {"content-type": "application/json"}
ERROR_FIELDS = ["code", "message", "param", "type"]


class AnsweringGenerator(FakeGenerator):
    """Says `answer` for every job before it accepts it, then ends or fails; None leaves the job open."""

    answer: str | None = "ok"
    finish: EngineFinish = "length"

    @asynccontextmanager
    async def open(self, job: Job, sink: TokenSink) -> AsyncIterator[FakeGeneration]:
        async with super().open(job, sink) as generation:
            if self.answer is not None:
                for choice in range(job.n):
                    generation.say(self.answer, choice=choice, finish=self.finish)
            yield generation


class World:
    """The application over fakes, and a client of it."""

    def __init__(self, *names: str, **sections: Any) -> None:
        self.generator = AnsweringGenerator(capacity=10)
        tokenizers = [FakeTokenizer(name) for name in names or ("letters",)]
        self.tokenizer = tokenizers[0]
        self.models = {
            tokenizer.card.name: Model(ModelSettings(name=tokenizer.card.name), tokenizer, self.generator)
            for tokenizer in tokenizers
        }
        settings = Settings(
            models=[model.settings for model in self.models.values()],
            limits=Settings().limits.model_copy(update=LIMITS),
            **sections,
        )
        self.service = GenerationService(
            settings, self.models, memory_store(), ingress="i1", clock=FakeClock()
        )
        self.app = build_app(self.service)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    async def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return await self.client.post(path, json=body, headers=headers)


def live(test: Callable[[World], Awaitable[None]], *names: str, **sections: Any) -> None:
    """Runs `test` over models of these names; `sections` are those of the settings."""

    async def main() -> None:
        world = World(*names, **sections)
        await world.service.load()
        running = asyncio.ensure_future(world.service.run())
        await settle()
        async with world.client:
            await test(world)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not world.generator.running

    asyncio.run(main())


def check_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert sorted(error) == ERROR_FIELDS
    assert (error["code"], error["param"]) == (code, param)
    assert response.headers.get_list("x-request-id") and response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_a_native_stream_to_the_byte() -> None:
    async def test(world: World) -> None:
        response = await world.post("/v1/streams", {"prompt": "hi", "seed": 5, "max_tokens": 2})
        assert response.status_code == 200
        stream_id = response.headers["x-stream-id"]
        assert re.fullmatch("st_[0-9a-f]{32}", stream_id)
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-length" not in response.headers
        assert (
            response.content
            == (
                f'id: {stream_id}:0\ndata: {{"type":"start","cursor":"0","stream":"{stream_id}","model":"letters",'
                f'"created":1790000000,"seed":5,"prompt_tokens":2,"deterministic":true}}\n\n'
                f'id: {stream_id}:2\ndata: {{"type":"delta","cursor":"2","index":0,"text":"ok","tokens":2}}\n\n'
                f'id: {stream_id}:2:end\ndata: {{"type":"end","cursor":"2",'
                '"choices":[{"index":0,"finish_reason":"length","stop_reason":null}],'
                '"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4,"cached_tokens":0},'
                '"timings":{"queue_ms":0.0,"ttft_ms":0.0,"total_ms":0.0,"tokens_per_s":2000000000.0},'
                '"text_sha256":["2689367b205c16ce32ed4200942b8b8b1e262dfc70d9bc9fbc77c49699a4f1df"]}\n\n'
            ).encode()
        )

    live(test)


def test_a_chat_stream_to_the_byte() -> None:
    async def test(world: World) -> None:
        body = {"messages": [{"role": "user", "content": "hi"}], "seed": 5, "stream": True, "max_tokens": 2}
        response = await world.post(
            "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}}
        )
        stream_id = response.headers["x-stream-id"]
        head = (
            f'data: {{"id":"chatcmpl-{stream_id[3:]}","object":"chat.completion.chunk","created":1790000000,'
            f'"model":"letters","stream_id":"{stream_id}","choices":['
        )
        assert response.content.decode().split("\n\n") == [
            f'{head}{{"index":0,"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}],'
            '"seed":5,"usage":null}',
            f'{head}{{"index":0,"delta":{{"content":"ok"}},"logprobs":null,"finish_reason":null}}],"usage":null}}',
            f'{head}{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"length","stop_reason":null}}],'
            '"seed":5,"usage":null}',
            f'{head}],"usage":{{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4,'
            '"prompt_tokens_details":{"cached_tokens":0}}}',
            "data: [DONE]",
            "",
        ]

    live(test)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (
            "/v1/streams",
            {"prompt": "hi", "stream": False},
            {
                "choices": [{"index": 0, "text": "ok", "finish_reason": "length", "stop_reason": None}],
                "deterministic": True,
                "cursor": "2",
            },
        ),
        (
            "/v1/streams",
            {"prompt": "hi", "stream": False, "n": 2},
            {
                "cursor": "2.2",
                "usage": {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6, "cached_tokens": 0},
            },
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "hi"}], "never_heard_of": 1},
            {
                "object": "chat.completion",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "ok", "refusal": None},
                        "logprobs": None,
                        "finish_reason": "length",
                        "stop_reason": None,
                    }
                ],
            },
        ),
        ("/v1/completions", {"prompt": "hi"}, {"object": "text_completion", "model": "letters"}),
    ],
)
def test_an_answer_that_is_not_streamed(path: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    async def test(world: World) -> None:
        response = await world.post(path, body)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        answer = response.json()
        assert {name: answer[name] for name in expected} == expected
        assert answer.get("stream", answer.get("stream_id")) == response.headers["x-stream-id"]

    live(test)


def test_a_completion_is_streamed() -> None:
    async def test(world: World) -> None:
        response = await world.post("/v1/completions", {"prompt": "hi", "stream": True})
        events = response.text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        assert json.loads(events[0][6:])["choices"][0]["text"] == "ok"

    live(test)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/streams/", 404, "not_found"),
        ("GET", "/v1/models/unknown", 404, "model_not_found"),
        ("GET", "/v1/models/some/unknown/name", 404, "model_not_found"),
        ("GET", "/v1/streams", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_routes_that_are_not_there(method: str, path: str, status: int, code: str) -> None:
    async def test(world: World) -> None:
        response = await world.client.request(method, path)
        check_error(response, status, code, "model" if code == "model_not_found" else None)
        assert ("allow" in response.headers) == (status == 405)

    live(test)


@pytest.mark.parametrize("path", ["/v1/streams", "/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_request"),
        (b"", "application/json", 400, "invalid_request"),
        (b"[]", "application/json", 400, "invalid_request"),
        (b'"text"', "application/json", 400, "invalid_request"),
        (b'{"temperature": NaN}', "application/json", 400, "invalid_request"),
        (b'{"temperature": 1e999}', "application/json", 400, "invalid_request"),
        (b"\xff\xfe", "application/json", 400, "invalid_request"),
        (b"[" * 1900, "application/json", 400, "invalid_request"),
        (b'{"max_tokens": ' + b"9" * 1900 + b"}", "application/json", 400, "invalid_request"),
        (b'{"prompt": "hi"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"prompt": "hi"}', "application/jsonp", 415, "unsupported_media_type"),
        (b'{"prompt": "hi"}', "", 415, "unsupported_media_type"),
        (b" " * (MAX_BODY_BYTES + 1), "application/json", 413, "body_too_large"),
    ],
)
def test_bodies_that_are_refused(
    path: str, content: bytes, content_type: str, status: int, code: str
) -> None:
    async def test(world: World) -> None:
        headers = {"content-type": content_type} if content_type else {}
        response = await world.client.post(path, content=content, headers=headers)
        check_error(response, status, code, response.json()["error"]["param"])
        assert not world.generator.generations

    live(test)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"]
)
def test_content_types_that_are_taken(content_type: str) -> None:
    async def test(world: World) -> None:
        response = await world.client.post(
            "/v1/streams", content=b'{"prompt": "hi"}', headers={"content-type": content_type}
        )
        assert response.status_code == 200

    live(test)


def test_bodies_that_wait_for_their_streams_are_bounded_together() -> None:
    """Of two bodies of 1500 bytes only one may be held; when its stream has begun, the other is welcome."""
    body = json.dumps({"prompt": "hi", "user": "u" * 1500})

    async def test(world: World) -> None:
        world.generator.hangs = True
        first = asyncio.ensure_future(world.client.post("/v1/completions", content=body, headers=JSON))
        await settle()
        check_error(await world.client.post("/v1/completions", content=body, headers=JSON), 503, "overloaded")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        world.generator.hangs = False
        assert (await world.client.post("/v1/completions", content=body, headers=JSON)).status_code == 200

    live(test)


def test_a_body_without_a_length_is_bounded_while_it_is_read() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 100

    async def test(world: World) -> None:
        response = await world.client.post(
            "/v1/streams", content=endless(), headers={"content-type": "application/json"}
        )
        check_error(response, 413, "body_too_large")
        assert sent <= MAX_BODY_BYTES / 100 + 2

    live(test)


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/v1/streams", {}, 400, "invalid_request", "prompt"),
        ("/v1/streams", {"prompt": "hi", "foo": 1}, 400, "invalid_request", "foo"),
        ("/v1/streams", {"prompt": "hi", "temperature": 3}, 400, "invalid_request", "temperature"),
        ("/v1/streams", {"prompt": "hi", "max_tokens": "many"}, 400, "invalid_request", "max_tokens"),
        ("/v1/streams", {"prompt": "hi", "model": "unknown"}, 404, "model_not_found", "model"),
        ("/v1/streams", {"prompt": "x" * 100}, 400, "context_length_exceeded", "prompt"),
        ("/v1/chat/completions", {}, 400, "invalid_request", "messages"),
        ("/v1/completions", {"prompt": "hi", "stream_options": {}}, 400, "invalid_request", "stream_options"),
    ],
)
def test_requests_that_are_refused(
    path: str, body: dict[str, Any], status: int, code: str, param: str
) -> None:
    async def test(world: World) -> None:
        check_error(await world.post(path, body), status, code, param)

    live(test)


@pytest.mark.parametrize(
    ("refusal", "status", "retry_after", "should_retry"),
    [
        (Overloaded("full", retry_after_s=3), 503, "3", None),
        (GeneratorUnavailable("gone"), 503, "1", None),
        (TooManyStreams("enough"), 429, "1", None),
        (RequestTimeout("late"), 408, None, "false"),
        (GenerationFailed("poison"), 500, None, "false"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_before_the_first_frame(
    refusal: ServiceError, status: int, retry_after: str | None, should_retry: str | None, stream: bool
) -> None:
    async def test(world: World) -> None:
        world.generator.refusal = refusal
        response = await world.post("/v1/streams", {"prompt": "hi", "stream": stream})
        check_error(response, status, refusal.code)
        assert response.headers.get("retry-after") == retry_after
        assert response.headers.get("x-should-retry") == should_retry

    live(test)


def test_a_failure_after_the_start_is_an_event_when_streamed_and_a_status_when_not() -> None:
    async def test(world: World) -> None:
        world.generator.finish = "error"
        streamed = await world.post("/v1/completions", {"prompt": "hi", "stream": True})
        assert streamed.status_code == 200
        event, done, nothing = streamed.text.split("\n\n")[-3:]
        assert event.startswith("event: error\n: ") and (done, nothing) == ("data: [DONE]", "")
        assert json.loads(event.splitlines()[-1][6:])["error"]["code"] == "generation_failed"
        for path in ("/v1/streams", "/v1/completions"):
            check_error(await world.post(path, {"prompt": "hi", "stream": False}), 500, "generation_failed")

    live(test)


def test_models() -> None:
    async def test(world: World) -> None:
        first = {
            "id": "letters",
            "object": "model",
            "created": 1790000000,
            "owned_by": "tests",
            "max_model_len": 64,
            "abilities": {"tools": False, "reasoning": False, "structured_output": False},
            "deterministic": True,
            "sampling_defaults": msgspec.to_builtins(SamplingDefaults()),
        }
        second = {**first, "id": "org/more"}
        assert (await world.client.get("/v1/models")).json() == {"object": "list", "data": [first, second]}
        assert (await world.client.get("/v1/models/letters")).json() == first
        world.generator.deterministic = False
        assert (await world.client.get("/v1/models/letters")).json() == {**first, "deterministic": False}
        world.generator.deterministic = True
        assert (await world.client.get("/v1/models/org/more")).json() == second
        check_error(await world.post("/v1/streams", {"prompt": "hi"}), 400, "invalid_request", "model")

    live(test, "letters", "org/more")


def test_health() -> None:
    async def test(world: World) -> None:
        response = await world.client.get("/health")
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
        world.generator.capacity = 0
        check_error(await world.client.get("/health"), 503, "generator_unavailable")

    live(test)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("abc-123", True),
        ("A" * 128, True),
        ("A" * 129, False),
        ("two words", False),
        ("<script>", False),
        ("", False),
    ],
)
def test_request_ids(sent: str, kept: bool) -> None:
    async def test(world: World) -> None:
        for path in ("/health", "/v1/nothing"):
            [given] = (await world.client.get(path, headers={"x-request-id": sent})).headers.get_list(
                "x-request-id"
            )
            assert (given == sent) == kept
            assert kept or re.fullmatch("req_[0-9a-f]{24}", given)

    live(test)


def test_a_server_may_write_the_request_id_itself() -> None:
    async def test(world: World) -> None:
        app = build_app(world.service, echo_request_id=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert "x-request-id" not in (await client.get("/health")).headers

    live(test)


def test_what_nobody_foresaw_is_logged_once_and_told_to_no_client(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        def fail() -> bool:
            raise RuntimeError("a secret")

        monkeypatch.setattr(world.service, "ready", fail)
        response = await world.client.get("/health", headers={"x-request-id": "abc"})
        check_error(response, 500, "internal_error")
        assert "secret" not in response.text
        assert response.headers["x-should-retry"] == "false"

    with caplog.at_level(logging.ERROR):
        live(test)
    [record] = caplog.records
    assert record.getMessage() == "request abc failed" and "a secret" in caplog.text


def test_a_client_that_leaves_an_answer_that_is_not_streamed_frees_its_place() -> None:
    async def test(world: World) -> None:
        world.generator.answer = None
        gone = asyncio.Event()
        messages: list[Any] = []

        async def receive() -> dict[str, Any]:
            if not messages and not gone.is_set() and not body_read.is_set():
                body_read.set()
                return {
                    "type": "http.request",
                    "body": b'{"prompt": "hi", "on_disconnect": "cancel", "stream": false}',
                }
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            messages.append(message)

        body_read = asyncio.Event()
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/streams",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        answering = asyncio.ensure_future(world.app(scope, receive, send))
        await settle()
        assert world.generator.running
        gone.set()
        await answering
        await settle()
        assert not world.generator.running
        assert messages[0]["status"] == 499

    live(test)
