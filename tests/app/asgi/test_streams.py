"""Streams over HTTP: resume, cancel, detach, replay, through two processes that share a log."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.asgi.application import build_app
from app.model import Model
from app.service import GenerationService
from app.settings import Settings
from app.streams.memory_log import LogBounds, MemoryStreamLog
from tests.fakes.clock import FakeClock, settle
from tests.fakes.exchange import Exchange, frames_of
from tests.fakes.generator import FakeGeneration, FakeGenerator, FakeTokenizer

RETENTION_S = 20.0
UNKNOWN = "st_" + "0" * 32
SETTINGS = Settings.model_validate({"models": [{"name": "letters"}]})


class Ingress:
    """One process: the application over a fake generator."""

    def __init__(self, name: str, clock: FakeClock, log: MemoryStreamLog) -> None:
        self.generator = FakeGenerator(capacity=100)
        model = Model(SETTINGS.models[0], FakeTokenizer(max_model_len_tokens=2000), self.generator)
        self.service = GenerationService(SETTINGS, {"letters": model}, log, ingress=name, clock=clock)
        self.app = build_app(self.service)
        self.running = asyncio.ensure_future(self.service.run())

    async def close(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


class World:
    """Two processes and their log."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = MemoryStreamLog(LogBounds(lease_s=3.0, retention_s=RETENTION_S), self.clock)
        self.first = Ingress("i1", self.clock, self.log)
        self.second = Ingress("i2", self.clock, self.log)
        self.exchanges: list[Exchange] = []

    @property
    def generation(self) -> FakeGeneration:
        """The last one that the first process has asked for."""
        return self.first.generator.generations[-1]

    def ask(self, method: str, target: str, *, at: Ingress | None = None, **more: Any) -> Exchange:
        exchange = Exchange((at or self.first).app, method, target, **more)
        self.exchanges.append(exchange)
        return exchange

    async def answer(self, method: str, target: str, **more: Any) -> Exchange:
        return await self.ask(method, target, **more).done()

    async def start(self, *, headers: dict[str, str] | None = None, **fields: Any) -> str:
        """The id of a new stream that nobody reads yet."""
        body = {"prompt": "hi", "seed": 1, "detach": True, **fields}
        exchange = await self.answer("POST", "/v1/streams", json_body=body, headers=headers)
        assert exchange.status == 202, exchange.body
        stream_id = exchange.json()["stream"]
        assert isinstance(stream_id, str)
        return stream_id

    async def ended(self, text: str = "abcde", **fields: Any) -> str:
        """The id of a stream that has ended and that nobody has read."""
        stream_id = await self.start(**fields)
        self.generation.say(text, finish="length")
        await settle()
        return stream_id

    async def close(self) -> None:
        for ingress in (self.first, self.second):
            await ingress.close()
        for exchange in self.exchanges:
            await exchange.leave()


def live(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await test(world)
        await world.close()
        await settle()
        assert not world.first.generator.running and not world.second.generator.running

    asyncio.run(main())


def events(stream_id: str) -> str:
    return f"/v1/streams/{stream_id}/events"


def at(stream_id: str, cursor: object) -> dict[str, str]:
    """The headers of an EventSource that comes back."""
    return {"Last-Event-ID": f"{stream_id}:{cursor}"}


def kinds(exchange: Exchange) -> list[str]:
    return [frame["type"] for frame in exchange.frames]


def text(frames: Iterable[dict[str, Any]], index: int = 0) -> str:
    return "".join(frame["text"] for frame in frames if frame["type"] == "delta" and frame["index"] == index)


def error_code(exchange: Exchange) -> str:
    code = exchange.json()["error"]["code"]
    assert isinstance(code, str)
    return code


# Cut at every byte.


async def recorded(world: World, n: int, tokens: int) -> tuple[str, list[str], bytes]:
    """A stream of `tokens` tokens in each choice, its texts, and its response as it came live, in small pieces."""
    stream_id = await world.start(n=n)
    reading = world.ask("GET", events(stream_id))
    await settle()
    draw = random.Random(n)
    texts = ["".join(draw.choices('abcdefghij \n"', k=tokens)) for _ in range(n)]
    begins = [0] * n
    while open_choices := [index for index in range(n) if begins[index] < tokens]:
        index = draw.choice(open_choices)
        end = begins[index] + draw.randint(1, 2 * n + 1)
        finish = "length" if end >= tokens else None
        world.generation.say(texts[index][begins[index] : end], choice=index, finish=finish)  # type: ignore[arg-type]
        begins[index] = end
        await asyncio.sleep(0)
    return stream_id, texts, (await reading.done()).body


def check_union(texts: list[str], *connections: bytes) -> None:
    """Together the connections have the start, every token once and in order, and the end with the hash of the text."""
    frames = [frame for body in connections for frame in frames_of(body)]
    assert [frame["type"] for frame in frames].count("start") == 1
    counts = [0] * len(texts)
    for frame in frames:
        if frame["type"] == "delta":
            counts[frame["index"]] += frame["tokens"]
            assert frame["cursor"] == ".".join(map(str, counts))
    assert [text(frames, index) for index in range(len(texts))] == texts
    assert frames[-1]["type"] == "end"
    assert frames[-1]["text_sha256"] == [hashlib.sha256(said.encode()).hexdigest() for said in texts]


def complete_events(body: bytes) -> bytes:
    end = body.rfind(b"\n\n")
    return b"" if end < 0 else body[: end + 2]


def last_event_id(body: bytes) -> str:
    return body[body.rfind(b"id: ") + 4 :].split(b"\n")[0].decode()


@pytest.mark.parametrize("n", [1, 3])
def test_cut_at_every_byte_the_union_of_two_connections_is_the_whole_text(n: int) -> None:
    async def test(world: World) -> None:
        stream_id, texts, body = await recorded(world, n, tokens=300)
        check_union(texts, body)
        end = len(complete_events(body[:-1]))
        rests: dict[bytes, bytes] = {}
        for cut in range(end):
            seen = complete_events(body[:cut])
            if seen not in rests:
                headers = {"Last-Event-ID": last_event_id(seen)} if seen else {}
                at_process = world.second if len(rests) % 2 else world.first
                answer = await world.answer("GET", events(stream_id), headers=headers, at=at_process)
                assert answer.status == 200 and answer.complete
                rests[seen] = answer.body
                check_union(texts, seen, answer.body)
        assert len(rests) > 100
        # Between the last delta and the end frame the ids do not tell how much was seen.
        headers = {"Last-Event-ID": last_event_id(body[:end])}
        after = await world.answer(
            "GET", f"{events(stream_id)}?after={headers['Last-Event-ID'].split(':')[1]}"
        )
        check_union(texts, body[:end], after.body)
        assert (await world.answer("GET", events(stream_id), headers=headers)).status == 204

    live(test)


@pytest.mark.parametrize("n", [1, 3])
def test_cut_between_the_last_delta_and_the_end_an_event_source_gets_the_end(n: int) -> None:
    async def test(world: World) -> None:
        stream_id, texts, _ = await recorded(world, n, tokens=20)
        whole = (await world.answer("GET", events(stream_id))).body
        for _ in range(2):  # The two who have read it so far
            headers = {"Last-Event-ID": last_event_id(whole)}
            assert (await world.answer("GET", events(stream_id), headers=headers)).status == 204
        for cut in range(len(complete_events(whole[:-1])), len(whole)):
            first = world.ask("GET", events(stream_id), takes=cut)
            await settle()
            await first.leave()
            assert first.cut and first.body == whole[:cut]
            seen = complete_events(first.body)
            headers = {"Last-Event-ID": last_event_id(seen)}
            second = await world.answer("GET", events(stream_id), headers=headers)
            assert second.status == 200
            check_union(texts, seen, second.body)
            third = await world.answer("GET", events(stream_id), headers=headers)
            assert (third.status, third.body, third.complete) == (204, b"", True)

    live(test)


# An EventSource that comes back after the end.


def test_an_event_source_that_has_seen_the_end_is_told_to_stop() -> None:
    async def test(world: World) -> None:
        reading = world.ask("POST", "/v1/streams", json_body={"prompt": "hi"})
        await settle()
        world.generation.say("abc", finish="length")
        assert kinds(await reading.done()) == ["start", "delta", "end"]
        stream_id = reading.headers["x-stream-id"]
        answer = await world.answer("GET", events(stream_id), headers=at(stream_id, 3))
        assert (answer.status, answer.body) == (204, b"")
        assert "content-length" not in answer.headers

    live(test)


def test_where_nobody_has_seen_the_end_it_is_sent_before_the_204() -> None:
    async def test(world: World) -> None:
        stream_id = await world.ended()
        for ingress in (world.first, world.second):
            for expected in (["end"], [], []):
                answer = await world.answer("GET", events(stream_id), headers=at(stream_id, 5), at=ingress)
                assert (answer.status, kinds(answer)) == (200 if expected else 204, expected)

    live(test)


@pytest.mark.parametrize("n", [1, 2])
def test_where_only_the_end_has_the_last_id_every_process_tells_to_stop(n: int) -> None:
    """As where a model ends its text: readers at any speed, before and after the end, have no delta with that id."""

    async def test(world: World) -> None:
        stream_id = await world.start(n=n)
        readers = [
            world.ask("GET", events(stream_id), at=at_process) for at_process in (world.first, world.second)
        ]
        await settle()
        for index in range(n):
            world.generation.say("abc", choice=index)
            world.generation.say("d\0", choice=index, finish="stop")
            await settle()
        await world.clock.advance(2)
        readers += [
            world.ask("GET", events(stream_id), at=at_process) for at_process in (world.first, world.second)
        ]
        last = ".".join(["5"] * n)
        for reader in readers:
            *_, delta, end = (await reader.done()).frames
            assert text(reader.frames) == "abcd"
            assert (delta["cursor"], end["cursor"]) == (".".join([*["4"] * n]), last)
        for ingress in (world.first, world.second):
            for cursor, status in ((last, 204), (delta["cursor"], 200)):
                for _ in range(2):
                    answer = await world.answer(
                        "GET", events(stream_id), headers=at(stream_id, cursor), at=ingress
                    )
                    assert (answer.status, kinds(answer)) == (status, ["end"] if status == 200 else [])

    live(test)


def test_one_client_that_has_seen_the_end_does_not_take_it_from_another() -> None:
    async def test(world: World) -> None:
        stream_id = await world.start()
        lucky, unlucky = (world.ask("GET", events(stream_id)) for _ in range(2))
        world.generation.say("abc", finish="length")
        await settle()
        assert kinds(await lucky.done())[-1] == "end"
        await unlucky.done()
        cut = world.ask("GET", events(stream_id), takes=len(complete_events(lucky.body[:-1])))
        await settle()
        await cut.leave()
        assert kinds(cut) == ["start", "delta"]
        # Any two of the three may be the first to come back, so that three answers could be the last that one gets.
        answers = [await world.answer("GET", events(stream_id), headers=at(stream_id, 3)) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 204]

    live(test)


@pytest.mark.parametrize("seen", [True, False])
def test_an_end_that_came_some_time_after_the_last_delta_is_sent_once_more(seen: bool) -> None:
    """Its client may have been lost in between, without the server's seeing it."""

    async def test(world: World) -> None:
        stream_id = await world.start()
        reading = world.ask("GET", events(stream_id))
        world.generation.say("abc")
        await settle()
        if not seen:
            await reading.leave()
        await world.answer("DELETE", f"/v1/streams/{stream_id}")
        assert kinds(await reading.done()) == ["start", "delta", "end"][: 3 if seen else 2]
        answers = [await world.answer("GET", events(stream_id), headers=at(stream_id, 3)) for _ in range(2)]
        assert [(answer.status, kinds(answer)) for answer in answers] == [(200, ["end"]), (204, [])]

    live(test)


def test_an_end_that_is_cut_off_again_is_sent_again() -> None:
    async def test(world: World) -> None:
        stream_id = await world.ended()
        for takes in (0, 10):
            again = world.ask("GET", events(stream_id), headers=at(stream_id, 5), takes=takes)
            await settle()
            await again.leave()
            assert again.status == 200
        assert kinds(await world.answer("GET", events(stream_id), headers=at(stream_id, 5))) == ["end"]

    live(test)


def test_behind_the_last_cursor_there_is_the_terminal_frame_once_more() -> None:
    async def test(world: World) -> None:
        stream_id = await world.ended()
        for _ in range(3):
            for answer in (
                await world.answer("GET", f"{events(stream_id)}?after=5"),
                await world.answer("GET", f"{events(stream_id)}?after=5", headers=at(stream_id, 5)),
                await world.answer("POST", "/v1/streams", headers=at(stream_id, 5)),
            ):
                assert (answer.status, kinds(answer), answer.complete) == (200, ["end"], True)

    live(test)


# Resume.


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
    # What is past its time leaves with the next stream that comes.
    await world.start()
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
        headers = at(UNKNOWN, 1)
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


# Owners.


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


# Idempotency.


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
