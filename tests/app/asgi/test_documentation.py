"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable

import httpx

from app.asgi.application import build_app
from app.model import Model
from app.service import GenerationService
from app.settings import ModelSettings, Settings
from tests.fakes.clock import FakeClock
from tests.fakes.generator import FakeGenerator, FakeTokenizer
from tests.fakes.store import memory_store

ERROR_FIELDS = ["code", "message", "param", "type"]


def live(test: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        settings = ModelSettings(name="letters")
        models = {"letters": Model(settings, FakeTokenizer(), FakeGenerator())}
        service = GenerationService(
            Settings(models=[settings]), models, memory_store(), ingress="i1", clock=FakeClock()
        )
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await test(client)

    asyncio.run(main())


def test_the_document_describes_every_route_and_resolves() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        assert {path: sorted(methods) for path, methods in document["paths"].items()} == {
            "/v1/streams": ["post"],
            "/v1/streams/{id}": ["delete", "get"],
            "/v1/streams/{id}/events": ["get"],
            "/v1/chat/completions": ["post"],
            "/v1/completions": ["post"],
            "/tokenize": ["post"],
            "/detokenize": ["post"],
            "/v1/models": ["get"],
            "/v1/models/{id}": ["get"],
            "/health": ["get"],
        }
        for reference in re.findall(r'"\$ref":\s*"#/([^"]+)"', json.dumps(document)):
            node = document
            for part in reference.split("/"):
                node = node[part]
        body = document["components"]["schemas"]["StreamBody"]
        assert body["additionalProperties"] is False and body["examples"]
        for example in document["components"]["examples"].values():
            error = example["value"].get("error") if isinstance(example["value"], dict) else None
            assert error is None or sorted(error) == ERROR_FIELDS
        assert "HTTPValidationError" not in json.dumps(document)

    live(test)


def test_the_documentation_is_one_page_that_needs_nothing_else() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        response = await client.get("/docs")
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        page = response.text
        assert (
            "src=" not in page
            and "<script" not in page
            and re.findall('href="([^"]*)"', page) == ["openapi.json"]
        )
        for route in (
            "POST /v1/streams",
            "DELETE /v1/streams/{id}",
            "POST /v1/chat/completions",
            "GET /v1/models/{id}",
            "GET /health",
        ):
            assert f"<h2><code>{route}</code></h2>" in page
        for name in ("Last-Event-ID", "Idempotency-Key", "after"):
            assert f"<code>{name}</code>" in page
        for field in ("max_tokens", "repetition_penalty", "on_disconnect", "stream_options"):
            assert f"<code>{field}</code>" in page

    live(test)
