"""Streams over HTTP: owners, status, cancel, detach, and the end of a process."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.fakes.clock import settle
from tests.fakes.processes import RETENTION_S, UNKNOWN, World, at, error_code, events, kinds, live, text


@pytest.mark.parametrize("key", [{}, {"authorization": "Bearer other"}, {"x-api-key": "other"}])
@pytest.mark.parametrize("state", ["running", "ended", "expired"])
def test_a_foreign_stream_is_answered_like_one_that_never_was(key: dict[str, str], state: str) -> None:
    async def test(world: World) -> None:
        stream_id = await world.start(headers={"authorization": "Bearer mine"})
        if state != "running":
            world.generation.say("abc", finish="length")
            await settle()
        if state == "expired":
            await world.clock.advance(RETENTION_S + 1)
            await world.start()
        for ingress in (world.first, world.second):
            for method, path, header in (
                ("GET", "/v1/streams/{id}", None),
                ("DELETE", "/v1/streams/{id}", None),
                ("GET", "/v1/streams/{id}/events", None),
                ("GET", "/v1/streams/{id}/events?after=1", None),
                ("GET", "/v1/streams/{id}/events?after=x", None),
                ("GET", "/v1/streams/{id}/events", "{id}:9"),
                ("GET", "/v1/streams/{id}/events", "{id}:9.9"),
                ("POST", "/v1/streams", "{id}:1"),
            ):
                answers = []
                for name in (stream_id, UNKNOWN):
                    headers = {**key, "x-request-id": "r"}
                    if header is not None:
                        headers["Last-Event-ID"] = header.format(id=name)
                    answer = await world.answer(method, path.format(id=name), headers=headers, at=ingress)
                    answers.append((answer.status, answer.headers, answer.body))
                assert answers[0] == answers[1]
                assert answers[0][0] == 404
        mine = await world.answer("GET", f"/v1/streams/{stream_id}", headers={"api-key": "mine"})
        assert mine.status == (410 if state == "expired" else 200)

    live(test)


# Status, cancel, detach.


def test_the_status_of_a_stream() -> None:
    async def test(world: World) -> None:
        stream_id = await world.start()
        expected = {
            "stream": stream_id,
            "model": "letters",
            "created": 1790000000,
            "state": "running",
            "cursor": "2",
            "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4, "cached_tokens": 0},
            "expires_at": None,
            "choices": None,
            "error": None,
        }
        world.generation.say("ab")
        await settle()
        for ingress in (world.first, world.second):
            answer = await world.answer("GET", f"/v1/streams/{stream_id}", at=ingress)
            assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
            assert answer.headers["cache-control"] == "no-store"
            assert answer.json() == expected
        world.generation.say("", finish="stop")
        await settle()
        status = (await world.answer("GET", f"/v1/streams/{stream_id}")).json()
        assert (status["state"], status["expires_at"]) == ("ended", 1790000020)
        assert status["choices"] == [{"index": 0, "finish_reason": "stop", "stop_reason": None}]

    live(test)


def test_the_status_of_a_stream_that_failed() -> None:
    async def test(world: World) -> None:
        stream_id = await world.start()
        world.generation.say("", finish="error")
        await settle()
        status = (await world.answer("GET", f"/v1/streams/{stream_id}", at=world.second)).json()
        assert (status["state"], status["error"]["code"]) == ("failed", "generation_failed")
        answer = await world.answer("GET", events(stream_id))
        assert (answer.status, kinds(answer)) == (200, ["start", "error"])

    live(test)


def test_a_stream_is_cancelled_and_cancelled_again() -> None:
    async def test(world: World) -> None:
        stream_id = await world.start(n=2)
        reading = world.ask("GET", events(stream_id))
        world.generation.say("ab")
        await settle()
        cancelling = world.ask("DELETE", f"/v1/streams/{stream_id}", at=world.second)
        await settle()
        first = await cancelling.done()
        assert not world.first.generator.running
        assert (first.status, first.json()["state"], first.json()["cursor"]) == (200, "ended", "2.0")
        end = (await reading.done()).frames[-1]
        assert [choice["finish_reason"] for choice in end["choices"]] == ["cancelled"] * 2
        for ingress in (world.first, world.second):
            again = await world.answer("DELETE", f"/v1/streams/{stream_id}", at=ingress)
            assert (again.status, again.json()["choices"]) == (200, first.json()["choices"])

    live(test)


def test_a_stream_that_has_ended_stays_as_it_is_when_it_is_cancelled() -> None:
    async def test(world: World) -> None:
        stream_id = await world.ended()
        answer = await world.answer("DELETE", f"/v1/streams/{stream_id}")
        assert answer.json()["choices"][0]["finish_reason"] == "length"

    live(test)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_detached_stream_is_answered_at_once_and_goes_on_without_a_reader(streamed: bool) -> None:
    async def test(world: World) -> None:
        body = {"prompt": "hi", "detach": True, "stream": streamed}
        answer = await world.answer("POST", "/v1/streams", json_body=body)
        stream_id = answer.json()["stream"]
        assert (answer.status, answer.json()) == (202, {"stream": stream_id})
        assert answer.headers["x-stream-id"] == stream_id
        assert answer.headers["location"] == f"/v1/streams/{stream_id}"
        peek = world.ask("GET", events(stream_id))
        await settle()
        await peek.leave()
        await world.clock.advance(60)
        world.generation.say("abc", finish="length")
        assert text((await world.answer("GET", events(stream_id))).frames) == "abc"

    live(test)


@pytest.mark.parametrize(
    ("fields", "freed_after_s"),
    [
        ({"on_disconnect": "cancel"}, 3),
        ({"on_disconnect": "grace"}, 31),
        ({}, 31),
        ({"on_disconnect": "continue"}, None),
        ({"detach": True, "on_disconnect": "cancel"}, 3),
    ],
)
def test_what_becomes_of_a_stream_whose_reader_leaves(
    fields: dict[str, Any], freed_after_s: float | None
) -> None:
    async def test(world: World) -> None:
        reading = world.ask("POST", "/v1/streams", json_body={"prompt": "hi", **fields})
        await settle()
        if fields.get("detach"):
            reading = world.ask("GET", events(reading.json()["stream"]))
            await settle()
        world.generation.say("abc")
        await reading.leave()
        assert text(reading.frames) == "abc"
        await world.clock.advance((freed_after_s or 120) - 2.5)
        assert bool(world.first.generator.running) == (fields.get("on_disconnect") != "cancel")
        await world.clock.advance(3)
        assert bool(world.first.generator.running) == (freed_after_s is None)

    live(test)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_stream_that_takes_longer_than_it_may(streamed: bool) -> None:
    async def test(world: World) -> None:
        body = {"prompt": "hi", "timeout_s": 0.01, "stream": streamed}
        answer = await world.answer("POST", "/v1/streams", json_body=body)
        if streamed:
            assert (answer.status, answer.frames[-1]["error"]["code"]) == (200, "timeout")
        else:
            assert (answer.status, error_code(answer)) == (408, "timeout")

    live(test)


# The end of a process.


@pytest.mark.parametrize("full", [False, True])
def test_a_process_that_stops_cuts_its_readers_who_go_on_elsewhere(full: bool) -> None:
    async def test(world: World) -> None:
        body = {"prompt": "hi", "on_disconnect": "cancel"}
        reading = world.ask("POST", "/v1/streams", json_body=body, takes=300 if full else None)
        await settle()
        world.generation.say("abc")
        world.generation.say("def" * 10)
        world.generation.say("ghi" * 10)
        await settle()
        await world.first.close()
        await reading.done()
        assert reading.cut and reading.frames and "error" not in kinds(reading)
        stream_id, cursor = reading.headers["x-stream-id"], reading.frames[-1]["cursor"]
        rest = world.ask("GET", events(stream_id), headers=at(stream_id, cursor), at=world.second)
        await world.clock.advance(4)
        taken_over = world.second.generator.generations[-1]
        taken_over.say("!", finish="length")
        await rest.done()
        said = "abc" + "def" * 10 + "ghi" * 10 + "!"
        assert text(reading.frames) + text(rest.frames) == said
        assert rest.frames[-1]["text_sha256"] == [hashlib.sha256(said.encode()).hexdigest()]

    live(test)


def test_an_answer_that_is_not_streamed_is_refused_when_its_process_stops() -> None:
    async def test(world: World) -> None:
        body = {"prompt": "hi", "stream": False}
        answers = [world.ask("POST", path, json_body=body) for path in ("/v1/streams", "/v1/completions")]
        await settle()
        await world.first.close()
        answers.append(world.ask("POST", "/v1/streams", json_body=body))
        for answer in answers:
            await answer.done()
            assert (answer.status, error_code(answer)) == (503, "draining")
            assert answer.headers["retry-after"] == "1"

    live(test)
