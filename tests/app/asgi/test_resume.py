"""Reading a stream again over HTTP: from any cursor, by several at once, through two processes that share a stream store."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.clock import settle
from tests.fakes.exchange import Exchange
from tests.fakes.processes import (
    RETENTION_S,
    UNKNOWN,
    World,
    at,
    check_union,
    complete_events,
    error_code,
    events,
    kinds,
    last_event_id,
    live,
    recorded,
    text,
)


@pytest.mark.parametrize("n", [1, 3])
def test_cut_at_every_byte_the_union_of_two_connections_is_the_whole_text(n: int) -> None:
    async def test(world: World) -> None:
        stream_id, texts, body = await recorded(world, n, tokens=300)
        check_union(texts, body)
        rests: dict[bytes, bytes] = {}
        for cut in range(len(body)):
            seen = complete_events(body[:cut])
            if seen not in rests:
                headers = {"Last-Event-ID": last_event_id(seen)} if seen else {}
                at_process = world.second if len(rests) % 2 else world.first
                answer = await world.answer("GET", events(stream_id), headers=headers, at=at_process)
                assert answer.status == 200 and answer.complete
                rests[seen] = answer.body
                check_union(texts, seen, answer.body)
        assert len(rests) == body.count(b"\n\n") > 100
        headers = {"Last-Event-ID": last_event_id(body)}
        for at_process in (world.first, world.second):
            answer = await world.answer("GET", events(stream_id), headers=headers, at=at_process)
            assert (answer.status, answer.body) == (204, b"")

    live(test)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_readers_that_come_and_go_anywhere_see_the_rest_of_the_same_text(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=1, max_size=3))

    async def test(world: World) -> None:
        stream_id = await world.start(n=len(texts), on_disconnect="continue")
        counts, readers = [0] * len(texts), 0
        joined: list[tuple[Exchange, list[int]]] = []

        def join() -> None:
            begins = [data.draw(st.integers(0, count)) for count in counts]
            cursor = ".".join(map(str, begins))
            header = data.draw(st.booleans())
            target = events(stream_id) if header else f"{events(stream_id)}?after={cursor}"
            ingress = data.draw(st.sampled_from([world.first, world.second]))
            headers = at(stream_id, cursor) if header else {}
            joined.append((world.ask("GET", target, headers=headers, at=ingress), begins))

        while open_choices := [index for index, said in enumerate(texts) if counts[index] < len(said)]:
            if readers < 8 and data.draw(st.booleans()):
                readers += 1
                join()
                await settle()
            index = data.draw(st.sampled_from(open_choices))
            begin = counts[index]
            counts[index] += data.draw(st.integers(1, len(texts[index]) - begin))
            finish = "length" if counts[index] == len(texts[index]) else None
            world.generation.say(texts[index][begin : counts[index]], choice=index, finish=finish)  # type: ignore[arg-type]
            one_leaves = data.draw(st.booleans())
            if one_leaves and joined:
                await joined[data.draw(st.integers(0, len(joined) - 1))][0].leave()
            await settle()
        for exchange, begins in joined:
            await exchange.done()
            for index, said in enumerate(texts):
                seen = text(exchange.frames, index)
                assert said[begins[index] :].startswith(seen)
                assert seen == said[begins[index] :] or not exchange.complete
            assert exchange.cut or kinds(exchange)[-1] == "end"

    live(test)


def test_a_live_stream_is_read_by_eight_at_once_and_not_by_nine() -> None:
    async def test(world: World) -> None:
        stream_id = await world.start()
        readers = [world.ask("GET", events(stream_id)) for _ in range(8)]
        await settle()
        for headers in ({}, at(stream_id, 0)):
            ninth = await world.answer("GET", events(stream_id), headers=headers)
            assert (ninth.status, error_code(ninth)) == (429, "too_many_readers")
            assert ninth.headers["retry-after"] == "1"
        world.generation.say("ab")
        await readers.pop().leave()
        readers.append(world.ask("GET", events(stream_id)))
        world.generation.say("c", finish="length")
        for reader in readers:
            assert text((await reader.done()).frames) == "abc"

    live(test)


def test_a_post_that_carries_an_event_id_resumes_whatever_its_body() -> None:
    async def test(world: World) -> None:
        stream_id = await world.start()
        world.generation.say("abc")
        await settle()
        bodies: tuple[object, ...] = (None, {"prompt": "hi"}, {"no": "sense"})
        for body, ingress in zip(bodies, itertools.cycle([world.first, world.second]), strict=False):
            resumed = world.ask("POST", "/v1/streams", headers=at(stream_id, 1), json_body=body, at=ingress)
            await settle()
            assert (resumed.status, resumed.headers["x-stream-id"]) == (200, stream_id)
            assert text(resumed.frames) == "bc"
        assert len(world.first.generator.generations) == 1 and not world.second.generator.generations

    live(test)


def test_the_event_id_is_newer_than_the_address_that_an_event_source_repeats() -> None:
    async def test(world: World) -> None:
        stream_id = await world.ended("abcde")
        answer = await world.answer("GET", f"{events(stream_id)}?after=1", headers=at(stream_id, 3))
        assert text(answer.frames) == "de"

    live(test)


async def expired(world: World) -> str:
    stream_id = await world.ended()
    await world.clock.advance(RETENTION_S + 1)
    return stream_id


Arrange = Callable[[World], Awaitable[str]]


@pytest.mark.parametrize(
    ("arrange", "query", "event_id", "status", "code", "param"),
    [
        (World.ended, "?after=6", None, 400, "invalid_cursor", "after"),
        (World.ended, "?after=1.1", None, 400, "invalid_cursor", "after"),
        (World.ended, "?after=x", None, 400, "invalid_cursor", "after"),
        (World.ended, "?after=", None, 400, "invalid_cursor", "after"),
        (World.ended, "?after=-1", None, 400, "invalid_cursor", "after"),
        (World.start, "?after=1", None, 400, "invalid_cursor", "after"),
        (World.ended, "", "{id}:6", 400, "invalid_cursor", "Last-Event-ID"),
        (World.ended, "", "{id}:1.1", 400, "invalid_cursor", "Last-Event-ID"),
        (World.ended, "", "{id}:6:end", 400, "invalid_cursor", "Last-Event-ID"),
        (World.ended, "", "{id}:1.1:end", 400, "invalid_cursor", "Last-Event-ID"),
        (World.start, "", "{id}:1:end", 400, "invalid_cursor", "Last-Event-ID"),
        (World.ended, "", "{id}:end", 400, "invalid_request", "Last-Event-ID"),
        (World.ended, "", "{id}:5:End", 400, "invalid_request", "Last-Event-ID"),
        (World.ended, "", "{id}:5:end:end", 400, "invalid_request", "Last-Event-ID"),
        (World.ended, "", "{id}:", 400, "invalid_request", "Last-Event-ID"),
        (World.ended, "", "{id}", 400, "invalid_request", "Last-Event-ID"),
        (World.ended, "", "{id}:x", 400, "invalid_request", "Last-Event-ID"),
        (World.ended, "", "{id}:1.", 400, "invalid_request", "Last-Event-ID"),
        (World.ended, "", ":1", 400, "invalid_request", "Last-Event-ID"),
        (World.ended, "", f"{UNKNOWN}:1", 400, "invalid_request", "Last-Event-ID"),
        (World.ended, "?after=1", "nonsense", 400, "invalid_request", "Last-Event-ID"),
        (expired, "", None, 410, "stream_expired", None),
        (expired, "?after=5", None, 410, "stream_expired", None),
        (expired, "", "{id}:5", 410, "stream_expired", None),
        (expired, "", "{id}:5:end", 410, "stream_expired", None),
    ],
)
def test_what_is_refused(
    arrange: Arrange, query: str, event_id: str | None, status: int, code: str, param: str | None
) -> None:
    async def test(world: World) -> None:
        stream_id = await arrange(world)
        headers = {} if event_id is None else {"Last-Event-ID": event_id.format(id=stream_id)}
        for ingress in (world.first,) if arrange is World.start else (world.first, world.second):
            answer = await world.answer("GET", events(stream_id) + query, headers=headers, at=ingress)
            error = answer.json()["error"]
            assert (answer.status, error["code"], error["param"]) == (status, code, param)

    live(test)


@pytest.mark.parametrize("event_id", [":1", "x", f"{UNKNOWN}:x"])
def test_a_post_with_a_broken_event_id_starts_nothing(event_id: str) -> None:
    async def test(world: World) -> None:
        headers = {"Last-Event-ID": event_id}
        answer = await world.answer("POST", "/v1/streams", headers=headers, json_body={"prompt": "hi"})
        assert (answer.status, error_code(answer)) == (400, "invalid_request")
        for cursor in ("1", "1:end"):
            headers = at(UNKNOWN, cursor)
            answer = await world.answer("POST", "/v1/streams", headers=headers, json_body={"prompt": "hi"})
            assert (answer.status, error_code(answer)) == (404, "stream_not_found")
        assert not world.first.generator.generations

    live(test)


def test_an_empty_event_id_is_none() -> None:
    async def test(world: World) -> None:
        stream_id = await world.ended("abc")
        answer = await world.answer("GET", f"{events(stream_id)}?after=1", headers={"Last-Event-ID": ""})
        assert text(answer.frames) == "bc"

    live(test)
