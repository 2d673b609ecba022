"""A WebSocket from the handshake to its close: order, full sockets, hostile input, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.asgi.application import build_app
from app.auth import CHECK_S
from app.key_file import digest_of
from app.model import Model
from app.service import GenerationService
from app.settings import AuthSettings, Settings
from tests.cases import validation as cases
from tests.fakes.clock import FakeClock, settle
from tests.fakes.exchange import Exchange
from tests.fakes.generator import FakeGeneration, FakeGenerator, FakeTokenizer
from tests.fakes.loop import run
from tests.fakes.store import memory_store
from tests.fakes.websocket import FakeWebSocket

MAX_BYTES = 100_000
SETTINGS = Settings.model_validate(
    {
        "models": [{"name": "storyteller"}],
        "ingress": {"allowed_origins": ["https://app.example"], "max_websockets": 3},
        "limits": {"max_message_bytes": MAX_BYTES, "max_pending_messages": 8},
        "streams": {"reader_window_tokens": 16},
    }
)


class World:
    """The application over a fake generator, and its sockets."""

    def __init__(self, settings: Settings) -> None:
        self.clock = FakeClock()
        self.generator = FakeGenerator(capacity=100)
        model = Model(settings.models[0], FakeTokenizer("storyteller", 2000), self.generator)
        self.service = GenerationService(
            settings, {"storyteller": model}, memory_store(), ingress="i1", clock=self.clock
        )
        self.app = build_app(self.service)
        self.sockets: list[FakeWebSocket] = []

    @property
    def generation(self) -> FakeGeneration:
        return self.generator.generations[-1]

    async def connect(self, **more: Any) -> FakeWebSocket:
        socket = FakeWebSocket(self.app, **more)
        self.sockets.append(socket)
        await settle()
        return socket

    async def close(self) -> None:
        for socket in self.sockets:
            socket.drain()
            if not socket.task.done():
                await socket.leave()
        await self.service.close()
        assert not self.generator.running and not self.service.on_close


def live(test: Callable[[World], Awaitable[None]], settings: Settings = SETTINGS) -> None:
    async def main() -> None:
        world = World(settings)
        await test(world)
        await world.close()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


# The handshake.


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "http://server.example"}, {"origin": "https://app.example"}]
)
def test_who_is_let_in(headers: dict[str, str]) -> None:
    async def test(world: World) -> None:
        socket = await world.connect(headers=headers)
        assert socket.accepted and socket.texts == []

    live(test)


@pytest.mark.parametrize("can_refuse", [True, False])
def test_a_page_of_another_origin_is_refused_before_it_is_accepted(can_refuse: bool) -> None:
    async def test(world: World) -> None:
        socket = await world.connect(headers={"origin": "https://evil.example"}, can_refuse=can_refuse)
        await socket.done()
        assert (socket.accepted, socket.status) == (False, 403)
        if can_refuse:
            error = json.loads(socket.body)["error"]
            assert (error["code"], error["param"]) == ("permission_denied", "Origin")

    live(test)


def test_one_connection_too_many_is_told_to_come_back() -> None:
    async def test(world: World) -> None:
        first, *_ = [await world.connect() for _ in range(3)]
        refused = await world.connect()
        assert (refused.accepted, refused.close_code) == (True, 1013)
        await refused.done()
        await first.leave()
        again = await world.connect()
        assert again.close_code is None

    live(test)


def test_there_is_nothing_at_other_paths() -> None:
    async def test(world: World) -> None:
        for path in ("/", "/v1/ws/", "/v1/streams"):
            socket = await world.connect(path=path)
            await socket.done()
            assert not socket.accepted and socket.status in (403, 404)

    live(test)


def test_streams_belong_to_the_key_of_the_handshake() -> None:
    async def test(world: World) -> None:
        mine = await world.connect(headers={"authorization": "Bearer mine"})
        stream = await mine.start()
        other = await world.connect(headers={"authorization": "Bearer other"})
        await other.say({"type": "resume", "stream": stream})
        assert other.messages[0]["error"]["code"] == "stream_not_found"
        world.generation.say("a", finish="length")
        answer = await Exchange(
            world.app, "GET", f"/v1/streams/{stream}/events", headers={"authorization": "Bearer mine"}
        ).done()
        assert answer.status == 200 and kinds(answer.frames) == ["start", "delta", "end"]

    live(test)


def test_a_key_is_needed_to_come_in_and_to_stay(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_bytes(msgspec.json.encode({"keys": [{"name": "one", "sha256": digest_of("sk-one")}]}))

    async def test(world: World) -> None:
        refused = await world.connect()
        await refused.done()
        assert (refused.accepted, refused.status) == (False, 401)
        assert json.loads(refused.body)["error"]["code"] == "invalid_api_key"
        socket = await world.connect(headers={"Authorization": "Bearer sk-one"})
        stream = await socket.start()
        keys.write_text('{"keys": []}')
        await world.clock.advance(2 * CHECK_S)
        world.generation.say("a")
        await socket.say({"type": "ping"})
        assert socket.close_code == 1008 and kinds(socket.of(stream)) == ["start", "delta"]

    live(test, SETTINGS.model_copy(update={"auth": AuthSettings(keys_file=str(keys))}))


# Frames.


def test_every_token_is_a_message_before_feeding_returns() -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        stream = await socket.start(ref="a")
        assert socket.messages[0]["ref"] == "a"
        for count, letter in enumerate("abc", start=1):
            world.generation.say(letter)
            assert socket.texts[count:] == [
                f'{{"type":"delta","cursor":"{count}","index":0,"text":"{letter}","tokens":1,"stream":"{stream}"}}'
            ]
        world.generation.say("d", finish="length")
        assert kinds(socket.messages) == ["start", "delta", "delta", "delta", "delta", "end"]

    live(test)


def test_a_socket_outlives_its_streams() -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        for _ in range(3):
            stream = await socket.start()
            world.generation.say("a", finish="length")
            assert kinds(socket.of(stream)) == ["start", "delta", "end"]
        assert not socket.task.done()

    live(test)


def test_a_full_socket_holds_nobody_else_coalesces_and_is_heard() -> None:
    async def test(world: World) -> None:
        slow, quick = await world.connect(), await world.connect()
        first, second = await slow.start(), await slow.start()
        one, two = world.generator.generations
        quick_stream = await quick.start()
        slow.full = True
        for letter in "abcd":
            for generation in world.generator.generations:
                generation.say(letter)
        assert [message["text"] for message in quick.of(quick_stream)[1:]] == ["a", "b", "c", "d"]
        assert kinds(slow.messages) == ["start", "start"]
        await slow.say({"type": "cancel", "stream": second})
        assert two.job.key not in world.generator.running
        slow.drain()
        await settle()
        assert [message.get("text") for message in slow.of(first)] == [None, "a", "bcd"]
        assert [message.get("text") for message in slow.of(second)] == [None, "abcd", None]
        one.say("e", finish="length")
        assert kinds(slow.of(first))[-2:] == ["delta", "end"]

    live(test)


def test_a_socket_that_fills_up_again_and_again_loses_nothing() -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        streams = [await socket.start() for _ in range(3)]
        for letter in "abcdefgh":
            socket.full = True
            for generation in world.generator.generations:
                generation.say(letter)
            await settle()
            socket.drain()
            await settle()
        for generation in world.generator.generations:
            generation.say("", finish="stop")
        for stream in streams:
            messages = socket.of(stream)
            assert "".join(message.get("text", "") for message in messages) == "abcdefgh"
            counts = [int(message["cursor"]) for message in messages]
            assert counts == sorted(counts) and messages[-1]["type"] == "end"

    live(test)


def test_a_socket_that_stays_full_pauses_its_streams_and_is_cut() -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        await socket.start()
        socket.full = True
        for _ in range(20):
            world.generation.say("x")
        assert world.generation.calls == ["pause"]
        began_s = asyncio.get_running_loop().time()
        await socket.task
        assert asyncio.get_running_loop().time() - began_s == SETTINGS.limits.reader_stall_timeout_s
        await settle()
        assert socket.close_code is None and not world.generator.running

    live(test)


def test_a_window_is_opened_by_acks() -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        stream = await socket.start(window=2)
        for letter in "abcd":
            world.generation.say(letter)
        assert [message.get("text") for message in socket.of(stream)] == [None, "a", "b"]
        assert world.generation.calls == ["pause"]
        await socket.say({"type": "ack", "stream": stream, "cursor": "1"})
        assert socket.messages[-1]["text"] == "c"
        await socket.say({"type": "ack", "stream": stream, "cursor": "4"})
        assert socket.messages[-1]["error"]["code"] == "invalid_cursor"
        await socket.say({"type": "ack", "stream": stream, "cursor": "3"})
        assert socket.messages[-1]["text"] == "d"
        await socket.say({"type": "ack", "stream": stream, "cursor": "4"})
        assert world.generation.calls == ["pause", "resume"]

    live(test)


def test_a_running_stream_is_stopped_updated_and_steered() -> None:
    async def test(world: World) -> None:
        running = asyncio.ensure_future(world.service.run())
        socket = await world.connect()
        stopped, updated, steered = [await socket.start() for _ in range(3)]
        first, second, third = world.generator.generations
        first.say("ab")
        await socket.say({"type": "stop", "stream": stopped})
        assert socket.of(stopped)[-1]["choices"][0]["finish_reason"] == "stop"
        second.say("ab")
        await socket.say({"type": "update", "stream": updated, "stop": "d"})
        second.say("cdef")
        end = socket.of(updated)[-1]
        assert (end["choices"][0]["stop_reason"], end["text_sha256"]) == ("d", [sha256("abc")])
        await socket.say({"type": "steer", "stream": steered, "text": "XY"})
        third.put_in(third.steerings[0])
        third.say("c", finish="length")
        await world.clock.advance(1)
        deltas = [message for message in socket.of(steered) if message["type"] == "delta"]
        assert [(delta["text"], delta.get("steered", False)) for delta in deltas] == [
            ("XY", True),
            ("c", False),
        ]
        await socket.say(
            {"type": "steer", "stream": steered, "text": "Z", "ref": "late"},
            {"type": "update", "stream": stopped, "stop": "Z"},
            {"type": "stop", "stream": stopped},
        )
        codes = [message["error"]["code"] for message in socket.messages if message["type"] == "error"]
        assert codes == ["stream_ended"] * 2
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    live(test)


# What is refused.


@pytest.mark.parametrize("case", cases.NATIVE, ids=lambda case: case.name)
def test_a_wrong_generate_is_refused_as_a_post_is(case: cases.Refused) -> None:
    async def test(world: World) -> None:
        posted = await Exchange(world.app, "POST", "/v1/streams", json_body=case.body).done()
        assert posted.status == 400
        expected = posted.json()["error"]
        is_object = isinstance(case.body, dict)
        said = {**case.body, "type": "generate", "ref": "r"} if is_object else case.body
        socket = await world.connect()
        await socket.say(said)
        [message] = socket.messages
        error = message.pop("error")
        assert error.pop("retryable") is False
        if "is not valid JSON" in error["message"]:  # at another column
            error["message"] = expected["message"] = ""
            assert message == {"type": "error"}
        else:
            assert message == {"type": "error", **({"ref": "r"} if is_object else {})}
        assert error == expected
        await socket.start()

    live(test)


GARBAGE: list[tuple[str, str | bytes, str | None]] = [
    ("empty", "", None),
    ("words", "hello", None),
    ("half", '{"type":"generate","ref":"r"', None),
    ("nothing", "null", None),
    ("number", "1e999", None),
    ("deep", "[" * 10_000, None),
    ("deep_object", '{"type":' * 1000, None),
    ("string", '"generate"', None),
    ("no_type", "{}", "type"),
    ("unknown", '{"type":"sing"}', "type"),
    ("binary", b'{"type":"ping"}', None),
    ("nothing_binary", b"", None),
    ("surrogate", '{"type":"steer","stream":"st_1","text":"\\ud800"}', None),
    ("digits", '{"type":"ack","stream":"st_1","cursor":' + "9" * 5000 + "}", None),
    ("number_as_name", '{"type":"ack","stream":"st_1","cursor":99}', "cursor"),
    ("long_name", '{"type":"stop","stream":"' + "s" * 5000 + '"}', "stream"),
]


@pytest.mark.parametrize(("said", "param"), [case[1:] for case in GARBAGE], ids=[case[0] for case in GARBAGE])
def test_garbage_is_answered_and_does_not_cost_the_socket(said: str | bytes, param: str | None) -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        stream = await socket.start()
        await socket.say(said)
        error = socket.messages[-1]
        assert (error["type"], error["error"]["code"]) == ("error", "invalid_request")
        assert error["error"]["param"] == param and "cursor" not in error
        assert len(socket.texts[-1]) < 1000
        world.generation.say("a", finish="length")
        assert kinds(socket.of(stream)) == ["start", "delta", "end"]

    live(test)


def test_an_error_names_what_the_message_named() -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        await socket.say(
            {"type": "stop", "stream": "st_1", "ref": "a", "colour": 1},
            {"type": "stop", "stream": 5, "ref": ["b"]},
            {"type": "sing", "stream": "st_2", "ref": "c"},
        )
        assert [(message.get("stream"), message.get("ref")) for message in socket.messages] == [
            ("st_1", "a"),
            (None, None),
            ("st_2", "c"),
        ]

    live(test)


@pytest.mark.parametrize(
    ("said", "closed"),
    [
        ('{"type":"ping","ref":"' + "é" * (MAX_BYTES // 2) + '"}', True),
        (b"x" * (MAX_BYTES + 1), True),
        ('{"type":"ping"' + " " * (MAX_BYTES - 15) + "}", False),
    ],
)
def test_a_message_that_is_too_big_closes_the_socket(said: str | bytes, closed: bool) -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        await socket.start()
        await socket.say(said)
        assert socket.close_code == (1009 if closed else None)
        assert bool(world.generator.running) is not closed
        assert socket.task.done() is closed

    live(test)


def test_a_flood_that_nobody_reads_the_answers_to_ends() -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        await socket.start()
        socket.full = True
        await socket.say(*["garbage"] * 100)
        socket.drain()
        await settle()
        assert socket.close_code == 1013
        assert kinds(socket.messages) == ["start"] + ["error"] * 9
        assert not world.generator.running

    live(test)


def test_a_flood_lets_others_run() -> None:
    async def test(world: World) -> None:
        socket, other = await world.connect(), await world.connect()
        flood = asyncio.ensure_future(socket.say(*["garbage"] * 10_000))
        stream = await other.start()
        world.generation.say("a", finish="length")
        assert kinds(other.of(stream)) == ["start", "delta", "end"]
        assert 0 < len(socket.texts) < 10_000
        await flood

    live(test)


# Endings.


def test_a_client_that_goes_away_frees_its_places() -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        await socket.start()
        await socket.start()
        await socket.leave()
        await settle()
        assert not world.generator.running

    live(test)


def test_a_handler_that_is_cancelled_frees_its_places() -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        await socket.start()
        socket.full = True
        world.generation.say("ab")
        socket.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await socket.task
        await settle()
        assert not world.generator.running

    live(test)


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), RuntimeError("broken")])
def test_a_send_that_fails_ends_the_connection(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        await socket.start()
        socket.failure = error
        world.generation.say("a")
        await socket.done()
        await settle()
        assert not world.generator.running

    with caplog.at_level(logging.ERROR):
        live(test)
    assert ("a WebSocket broke" in caplog.text) is isinstance(error, RuntimeError)


def test_a_receive_that_fails_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        await socket.start()
        socket.break_off(RuntimeError("secret"))
        await socket.done()
        assert socket.close_code == 1011 and "secret" not in socket.reason
        await settle()
        assert not world.generator.running

    live(test)
    assert "secret" in caplog.text


def test_frames_that_cannot_be_written_close_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        socket = await world.connect()
        await socket.start()
        monkeypatch.setattr("app.asgi.websocket_endpoint.message_json", lambda addressed: 1 / 0)
        world.generation.say("a")
        await socket.done()
        assert socket.close_code == 1011

    live(test)


@pytest.mark.parametrize("full", [False, True])
def test_a_process_that_stops_says_so_also_to_an_idle_socket(full: bool) -> None:
    async def test(world: World) -> None:
        socket, idle = await world.connect(), await world.connect()
        stream = await socket.start()
        socket.full = full
        world.generation.say("a")
        await world.service.close()
        socket.drain()
        await socket.done()
        await idle.done()
        assert (socket.close_code, idle.close_code) == (1012, 1012)
        assert "resume" in socket.reason
        assert kinds(socket.of(stream)) == ["start", "delta"]
        late = await world.connect()
        assert (late.accepted, late.close_code) == (True, 1012)

    live(test)
