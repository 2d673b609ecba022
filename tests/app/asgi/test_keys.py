"""With a file of keys: what needs one, what does not, and how many streams a key may have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.asgi.application import build_app
from app.key_file import create_key
from app.model import Model
from app.service import GenerationService
from app.settings import Settings
from tests.fakes.clock import FakeClock, settle
from tests.fakes.generator import FakeGenerator, FakeTokenizer
from tests.fakes.store import memory_store

BODY = {"prompt": "hi", "detach": True}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


class World:
    """The application with keys for Ann and Bob, two streams for each."""

    def __init__(self, directory: Path) -> None:
        path = directory / "keys.json"
        self.ann, self.bob = create_key(path, "ann"), create_key(path, "bob")
        settings = Settings.model_validate(
            {
                "models": [{"name": "letters"}],
                "auth": {"keys_file": str(path)},
                "limits": {"max_streams_per_key": 2},
            }
        )
        self.generator = FakeGenerator(capacity=10)
        model = Model(settings.models[0], FakeTokenizer(), self.generator)
        self.service = GenerationService(
            settings, {"letters": model}, memory_store(), ingress="i1", clock=FakeClock()
        )
        transport = httpx.ASGITransport(build_app(self.service))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def ask(self, method: str, path: str, key: str | None, body: Any = None) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return await self.client.request(method, path, json=body, headers=headers)

    async def start(self, key: str) -> httpx.Response:
        return await self.ask("POST", "/v1/streams", key, BODY)


@pytest.fixture
def live(tmp_path: Path) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    def run(test: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            world = World(tmp_path)
            await world.service.load()
            running = asyncio.ensure_future(world.service.run())
            await settle()
            async with world.client:
                await test(world)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        asyncio.run(main())

    return run


Live = Callable[[Callable[[World], Awaitable[None]]], None]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/streams", BODY),
        ("POST", "/v1/streams", {"nonsense": 1}),
        ("POST", "/v1/chat/completions", CHAT),
        ("POST", "/v1/completions", {"prompt": "hi"}),
        ("GET", "/v1/streams/st_1", None),
        ("GET", "/v1/streams/st_1/events", None),
        ("DELETE", "/v1/streams/st_1", None),
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/letters", None),
    ],
)
@pytest.mark.parametrize("key", [None, "sk-wrong"])
def test_what_needs_a_key(live: Live, method: str, path: str, body: Any, key: str | None) -> None:
    async def test(world: World) -> None:
        response = await world.ask(method, path, key, body)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        error = response.json()["error"]
        assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")
        assert world.generator.generations == []

    live(test)


@pytest.mark.parametrize("path", ["/health", "/docs", "/openapi.json"])
def test_what_needs_none(live: Live, path: str) -> None:
    async def test(world: World) -> None:
        assert (await world.ask("GET", path, None)).status_code == 200

    live(test)


def test_who_may_not_call_is_refused_before_the_body_is_read(live: Live) -> None:
    async def test(world: World) -> None:
        async def endless() -> Any:
            yield b"{"
            raise AssertionError("more of the body was read")

        headers = {"content-type": "application/json"}
        response = await world.client.post("/v1/streams", content=endless(), headers=headers)
        assert response.status_code == 401

    live(test)


def test_a_stream_belongs_to_its_key(live: Live) -> None:
    async def test(world: World) -> None:
        stream = (await world.start(world.ann)).json()["stream"]
        assert (await world.ask("GET", f"/v1/streams/{stream}", world.ann)).status_code == 200
        assert (await world.ask("GET", f"/v1/streams/{stream}", world.bob)).status_code == 404
        assert (await world.ask("DELETE", f"/v1/streams/{stream}", world.bob)).status_code == 404

    live(test)


def test_a_key_has_so_many_running_streams(live: Live) -> None:
    async def test(world: World) -> None:
        first, second, third = [await world.start(world.ann) for _ in range(3)]
        assert (first.status_code, second.status_code, third.status_code) == (202, 202, 429)
        assert third.headers["retry-after"] == "1" and third.json()["error"]["code"] == "too_many_streams"
        assert (await world.start(world.bob)).status_code == 202
        # The place comes back with the end of the stream, whichever end that is.
        world.generator.generations[0].say("x", finish="stop")
        await settle()
        assert (await world.start(world.ann)).status_code == 202
        assert (await world.start(world.ann)).status_code == 429
        await world.ask("DELETE", f"/v1/streams/{second.json()['stream']}", world.ann)
        await settle()
        assert (await world.start(world.ann)).status_code == 202

    live(test)


def test_no_key_is_logged(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(world: World) -> None:
        await world.start(world.ann)
        await world.ask("GET", "/v1/models", "sk-wrong")
        assert world.ann not in caplog.text and "sk-wrong" not in caplog.text

    live(test)
