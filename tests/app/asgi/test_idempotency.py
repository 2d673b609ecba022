"""`Idempotency-Key` over HTTP: a retry is the same stream."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.clock import settle
from tests.fakes.processes import World, kinds, live, text

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/streams", {"prompt": "hi"}),
    ("/v1/streams", {"prompt": "hi", "stream": False}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/completions", {"prompt": "hi", "stream": True}),
]


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_lost_response_and_a_retry_with_its_key_are_one_stream(path: str, body: dict[str, Any]) -> None:
    async def test(world: World) -> None:
        headers = {"Idempotency-Key": "k-1", "authorization": "Bearer mine"}
        lost = world.ask("POST", path, headers=headers, json_body=body, takes=10)
        await settle()
        world.generation.say("abc")
        await settle()
        await lost.leave()
        await world.clock.advance(3)
        retries = [
            world.ask("POST", path, headers=headers, json_body=body, at=ingress)
            for ingress in (world.first, world.second)
        ]
        await settle()
        assert len(world.first.generator.running) == 1 and not world.second.generator.running
        world.first.generator.generations[0].say("d", finish="length")
        await settle()
        late = world.ask("POST", path, headers=headers, json_body=body)
        named = set()
        for retry in (*retries, late):
            await retry.done()
            assert retry.status == 200 and retry.complete
            named.add(retry.headers["x-stream-id"])
            if path == "/v1/streams" and body.get("stream", True):
                assert kinds(retry)[0] == "start" and text(retry.frames) == "abcd"
            elif not body.get("stream"):
                choice = retry.json()["choices"][0]
                assert "abcd" in (choice.get("text"), choice.get("message", {}).get("content"))
            else:
                assert retry.body.endswith(b"data: [DONE]\n\n")
        assert len(named) == 1

    live(test)


def test_a_detached_stream_has_one_name_for_one_key() -> None:
    async def test(world: World) -> None:
        headers = {"Idempotency-Key": "k-1"}
        assert await world.start(headers=headers) == await world.start(headers=headers)
        assert await world.start() != await world.start(headers=headers)

    live(test)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/streams", {"prompt": "ho", "detach": True}),
        ("/v1/streams", {"prompt": "hi", "detach": True, "seed": 2}),
        ("/v1/streams", {"prompt": "hi"}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/chat/completions", CHAT),
    ],
)
def test_another_body_with_the_same_key_is_a_conflict(path: str, body: dict[str, Any]) -> None:
    async def test(world: World) -> None:
        headers = {"Idempotency-Key": "k-1"}
        first = {"prompt": "hi", "detach": True}
        assert (await world.answer("POST", "/v1/streams", headers=headers, json_body=first)).status == 202
        for ingress in (world.first, world.second):
            answer = await world.answer("POST", path, headers=headers, json_body=body, at=ingress)
            error = answer.json()["error"]
            assert (answer.status, error["code"], error["param"]) == (
                409,
                "idempotency_conflict",
                "Idempotency-Key",
            )
            assert answer.headers["x-should-retry"] == "false"
        other = {**headers, "authorization": "Bearer other"}
        foreign = world.ask("POST", path, headers=other, json_body={**body, "stream": True})
        await settle()
        assert foreign.status in (200, 202)

    live(test)


def test_the_same_body_written_in_another_way_is_the_same() -> None:
    async def test(world: World) -> None:
        headers = {"Idempotency-Key": "k-1"}
        bodies: list[dict[str, Any]] = [
            {"prompt": "hi", "detach": True, "stop": "x", "logit_bias": {"1": 1, "2": 2}},
            {"logit_bias": {"2": 2.0, "1": 1}, "stop": ["x"], "detach": True, "n": 1, "prompt": "hi"},
        ]
        answers = [
            await world.answer("POST", "/v1/streams", headers=headers, json_body=body) for body in bodies
        ]
        assert answers[0].json() == answers[1].json()

    live(test)


@pytest.mark.parametrize(("path", "body"), ROUTES[::2])
@pytest.mark.parametrize(
    ("key", "status"),
    [("", 400), ("a b", 400), ("é", 400), ("k" * 256, 400), ("k" * 255, 200), ('"~!"', 200)],
)
def test_keys(path: str, body: dict[str, Any], key: str, status: int) -> None:
    async def test(world: World) -> None:
        headers = {"Idempotency-Key": key}
        exchange = world.ask("POST", path, headers=headers, json_body={**body, "stream": True})
        await settle()
        assert exchange.status == status
        if status == 400:
            assert exchange.json()["error"]["param"] == "Idempotency-Key"
            assert not world.first.generator.generations

    live(test)
