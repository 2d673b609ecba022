"""The methods of every address: HEAD, OPTIONS, and what `Allow` says of the others."""

from __future__ import annotations

import pytest

from tests.app.asgi.test_application import World, check_error
from tests.app.asgi.test_application import live as live_application
from tests.fakes import processes
from tests.fakes.clock import settle
from tests.fakes.processes import UNKNOWN, events


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/letters", "/docs", "/openapi.json"])
def test_head_gets_the_head_of_the_answer_to_get(path: str) -> None:
    async def test(world: World) -> None:
        got, head = await world.client.get(path), await world.client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        for headers in (got.headers, head.headers):
            del headers["x-request-id"]
        assert head.headers == got.headers

    live_application(test)


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/health", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/models/a/b", "GET, HEAD, OPTIONS"),
        ("/v1/streams", "OPTIONS, POST"),
        ("/v1/streams/st_1", "DELETE, GET, HEAD, OPTIONS"),
        ("/v1/streams/st_1/events", "GET, HEAD, OPTIONS"),
        ("/v1/chat/completions", "OPTIONS, POST"),
    ],
)
def test_allow_names_all_methods_of_an_address(path: str, allow: str) -> None:
    async def test(world: World) -> None:
        refused = await world.client.request("PATCH", path)
        check_error(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == allow
        options = await world.client.options(path)
        assert (options.status_code, options.content, options.headers["allow"]) == (204, b"", allow)

    live_application(test)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_an_address_with_nothing_has_no_methods(method: str) -> None:
    async def test(world: World) -> None:
        response = await world.client.request(method, "/v1/nothing")
        assert response.status_code == 404
        assert "allow" not in response.headers

    live_application(test)


def test_head_of_a_stream_is_no_reader() -> None:
    async def test(world: processes.World) -> None:
        stream_id = await world.start(on_disconnect="cancel")
        world.generation.say("ab")
        await settle()
        for ingress in (world.first, world.second):
            answer = await world.answer("HEAD", events(stream_id), at=ingress)
            assert (answer.status, answer.headers["x-stream-id"]) == (200, stream_id)
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.body == b""
            wrong = await world.answer("HEAD", f"{events(stream_id)}?after=1.1", at=ingress)
            assert wrong.status == 400
            status = await world.answer("HEAD", f"/v1/streams/{stream_id}", at=ingress)
            assert status.status == 200
        assert (await world.answer("HEAD", events(UNKNOWN))).status == 404
        assert world.first.generator.running

    processes.live(test)
