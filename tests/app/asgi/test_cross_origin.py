"""CORS: what pages of other origins may call and read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from app.settings import IngressSettings
from tests.app.asgi.test_application import World, check_error
from tests.app.asgi.test_application import live as live_application

PAGE = "https://app.example"
# What the SDKs and an EventSource put into their requests.
SDK_HEADERS = [
    "authorization",
    "content-type",
    "last-event-id",
    "idempotency-key",
    "x-api-key",
    "x-stainless-os",
    "x-stainless-retry-count",
    "anthropic-version",
    "anthropic-dangerous-direct-browser-access",
]
READABLE = {"x-stream-id", "x-request-id", "retry-after", "x-should-retry", "location"}


def live(test: Callable[[World], Awaitable[None]], *origins: str) -> None:
    live_application(test, ingress=IngressSettings(allowed_origins=list(origins)))


def names(response: httpx.Response, header: str) -> set[str]:
    return {name.strip().lower() for name in response.headers.get(header, "").split(",") if name.strip()}


def cors(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


def preflight(origin: str, method: str = "POST", **headers: str) -> dict[str, str]:
    wanted = {
        "access-control-request-method": method,
        "access-control-request-headers": ",".join(SDK_HEADERS),
    }
    return {"origin": origin, **wanted, **headers}


@pytest.mark.parametrize(
    ("setting", "answer"), [(PAGE, PAGE), ("HTTPS://App.Example", PAGE), ("*", "*"), ("null", "null")]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_preflight_of_a_listed_page(setting: str, answer: str, method: str) -> None:
    async def test(world: World) -> None:
        origin = PAGE if setting == "*" else answer
        for path in ("/v1/chat/completions", "/v1/streams/st_1/events", "/v1/nothing"):
            response = await world.client.options(path, headers=preflight(origin, method))
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == answer
            assert method in response.headers["access-control-allow-methods"]
            assert names(response, "access-control-allow-headers") == set(SDK_HEADERS)
            assert int(response.headers["access-control-max-age"]) > 0
            assert "access-control-allow-credentials" not in response.headers

    live(test, setting)


def test_a_page_of_a_private_network_is_told_that_it_may() -> None:
    async def test(world: World) -> None:
        asked = preflight(PAGE, **{"access-control-request-private-network": "true"})
        response = await world.client.options("/v1/streams", headers=asked)
        assert response.headers["access-control-allow-private-network"] == "true"

    live(test, PAGE)


def test_refused_preflights_have_the_shape_of_errors() -> None:
    async def test(world: World) -> None:
        response = await world.client.options("/v1/streams", headers=preflight("https://evil.example"))
        check_error(response, 403, "permission_denied", "Origin")
        assert cors(response) == {}
        response = await world.client.options("/v1/streams", headers=preflight(PAGE, "NONSENSE"))
        check_error(response, 400, "invalid_request", "Access-Control-Request-Method")

    live(test, PAGE)


async def every_kind(world: World, **headers: str) -> list[tuple[int, httpx.Response]]:
    """Answers of all kinds, each with the status that it must have."""
    client = world.client
    body: dict[str, Any] = {"prompt": "hi", "max_tokens": 2}
    answers = [
        (200, await world.post("/v1/streams", body, **headers)),
        (200, await world.post("/v1/completions", body, **headers)),
        (202, await world.post("/v1/streams", {**body, "detach": True}, **headers)),
        (200, await client.get("/v1/models", headers=headers)),
        (200, await client.head("/v1/models", headers=headers)),
        (204, await client.options("/v1/models", headers=headers)),
        (400, await world.post("/v1/streams", {}, **headers)),
        (404, await client.get("/v1/nothing", headers=headers)),
        (405, await client.get("/v1/streams", headers=headers)),
        (413, await world.post("/v1/streams", {"prompt": "x" * 3000}, **headers)),
        (415, await client.post("/v1/streams", content=b"", headers=headers)),
    ]
    world.service.cards = _broken  # type: ignore[method-assign, assignment]
    answers.append((500, await client.get("/v1/models", headers=headers)))
    world.generator.capacity = 0
    answers.append((503, await world.post("/v1/streams", body, **headers)))
    return answers


def _broken() -> None:
    raise RuntimeError("secret")


@pytest.mark.parametrize(("setting", "answer"), [(PAGE, PAGE), ("*", "*")])
def test_every_answer_to_a_listed_page_can_be_read(setting: str, answer: str) -> None:
    async def test(world: World) -> None:
        for status, response in await every_kind(world, origin=PAGE):
            assert response.status_code == status, response.text
            assert response.headers["access-control-allow-origin"] == answer, status
            assert names(response, "access-control-expose-headers") >= READABLE
            assert "origin" in names(response, "vary")

    live(test, setting)


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example.evil.example", "\xe9", ""])
def test_other_pages_are_answered_without_leave_to_read(origin: str) -> None:
    async def test(world: World) -> None:
        response = await world.client.get("/v1/models", headers=[(b"origin", origin.encode("latin-1"))])
        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers
        assert "origin" in names(response, "vary")

    live(test, PAGE)


def test_without_a_listed_origin_nothing_speaks_of_cors() -> None:
    async def test(world: World) -> None:
        for status, response in await every_kind(world, origin=PAGE):
            assert response.status_code == status, response.text
            assert cors(response) == {} and "vary" not in response.headers
        response = await world.client.options("/v1/streams", headers=preflight(PAGE))
        assert (response.status_code, cors(response)) == (204, {})

    live(test)
