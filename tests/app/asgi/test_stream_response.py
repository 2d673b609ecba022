"""How frames reach the socket: at once, in as few writes as can be, and never at another stream's expense."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from app.asgi.outlet import Resumed
from app.asgi.stream_response import StreamResponse
from app.model import Model
from app.schema.frames import Error, Frame
from app.service import GenerationService
from app.settings import ModelSettings, Settings
from app.streams.stream import Stream
from app.wire.encoder import Encoder
from app.wire.sse import HEARTBEAT, NativeSseEncoder
from tests.fakes.clock import FakeClock, settle
from tests.fakes.generator import FakeGeneration, FakeGenerator, FakeTokenizer
from tests.fakes.loop import run
from tests.fakes.requests import request
from tests.fakes.socket import Message, Socket
from tests.fakes.store import memory_store


class World:
    """Streams over a fake generator, each answered over a socket of its own."""

    def __init__(self) -> None:
        self.generator = FakeGenerator(capacity=100)
        model = Model(ModelSettings(name="letters"), FakeTokenizer(max_model_len_tokens=2000), self.generator)
        settings = Settings.model_validate({"streams": {"reader_window_tokens": 16}})
        self.service = GenerationService(
            settings, {"letters": model}, memory_store(), ingress="i1", clock=FakeClock()
        )

    async def start(self) -> tuple[Stream, FakeGeneration]:
        stream = await self.service.start(request("hi", seed=1, on_disconnect="cancel"))
        return stream, self.generator.generations[-1]

    async def respond(
        self, socket: Socket, encoder: Encoder | None = None
    ) -> tuple[FakeGeneration, asyncio.Task[None]]:
        """Starts a stream and its response; returns when the head has been sent."""
        stream, generation = await self.start()
        return generation, await self.answer(stream, socket, encoder)

    async def answer(
        self, stream: Stream, socket: Socket, encoder: Encoder | None = None
    ) -> asyncio.Task[None]:
        response = StreamResponse(
            stream.readers.join(),
            encoder or NativeSseEncoder(stream.id),
            heartbeat_s=10,
            reader_stall_timeout_s=30,
        )
        scope: Message = {"type": "http"}
        task = asyncio.ensure_future(response(scope, socket.receive, socket.send))
        await asyncio.sleep(0)
        return task


def live(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await test(world)
        await world.service.close()
        assert not world.generator.running
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


class RequestResponseCycle(Socket):
    """A socket whose response is written as uvicorn's is: chunks may go past `send`, to its transport."""

    disconnected = response_complete = False

    def __init__(self) -> None:
        super().__init__()
        self.scope = {"method": "POST"}
        self.flow = self.transport = self
        self.past_send = 0

    @property
    def chunked_encoding(self) -> bool | None:
        return True if self.messages else None

    @property
    def write_paused(self) -> bool:
        return self.full

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, chunk: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        size, _, body = chunk.partition(b"\r\n")
        assert int(size, 16) == len(body) - 2 and body.endswith(b"\r\n")
        self.past_send += 1
        self.messages.append({"type": "http.response.body", "body": body[:-2], "more_body": True})
        self.times.append(asyncio.get_running_loop().time())


def kinds(writes: list[list[dict[str, Any]]]) -> list[list[str]]:
    return [[frame["type"] for frame in frames] for frames in writes]


def test_the_head() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        stream_id = socket.frames()[0][0]["stream"]
        assert socket.messages[0] == {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache, no-transform"),
                (b"x-accel-buffering", b"no"),
                (b"x-stream-id", stream_id.encode()),
            ],
        }
        generation.say("", finish="stop")
        await task

    live(test)


def test_every_token_is_written_before_feeding_returns() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        assert kinds(socket.frames()) == [["start"]]
        for count, letter in enumerate("abc", start=1):
            generation.say(letter)
            assert socket.frames()[count] == [
                {"type": "delta", "cursor": str(count), "index": 0, "text": letter, "tokens": 1}
            ]
            assert not socket.closed
        generation.say("d", finish="length")
        assert kinds(socket.frames())[4:] == [["delta", "end"]]
        assert socket.closed
        await task

    live(test)


def test_a_stream_that_is_complete_already_is_one_write() -> None:
    async def test(world: World) -> None:
        stream, generation = await world.start()
        generation.say("abc", finish="length")
        socket = Socket()
        task = await world.answer(stream, socket)
        assert kinds(socket.frames()) == [["start", "delta", "end"]]
        assert socket.closed and task.done()
        await task

    live(test)


def test_a_full_socket_holds_nobody_else_and_coalesces() -> None:
    async def test(world: World) -> None:
        slow, quick = Socket(), Socket()
        slow_generation, slow_task = await world.respond(slow)
        quick_generation, quick_task = await world.respond(quick)
        slow.full = True
        for letter in "abcd":
            slow_generation.say(letter)
            quick_generation.say(letter)
        assert [frames[-1].get("text") for frames in quick.frames()] == [None, "a", "b", "c", "d"]
        await settle()
        assert kinds(slow.frames()) == [["start"]]
        slow.drain()
        await settle()
        assert [frames[0].get("text") for frames in slow.frames()] == [None, "a", "bcd"]
        slow_generation.say("e", finish="length")
        quick_generation.say("", finish="stop")
        await asyncio.gather(slow_task, quick_task)
        assert slow.closed and [frame["type"] for frame in slow.frames()[-1]] == ["delta", "end"]

    live(test)


def test_chunks_go_past_send_and_back_to_it_while_the_socket_is_full() -> None:
    async def test(world: World) -> None:
        socket = RequestResponseCycle()
        generation, task = await world.respond(socket)
        generation.say("a")
        assert socket.past_send == 2 and kinds(socket.frames()) == [["start"], ["delta"]]
        socket.full = True
        for letter in "bcd":
            generation.say(letter)
        await settle()
        assert len(socket.messages) == 3
        socket.drain()
        await settle()
        generation.say("e")
        assert [frames[0].get("text") for frames in socket.frames()] == [None, "a", "b", "cd", "e"]
        assert socket.past_send == 4
        generation.say("f", finish="length")
        await task
        assert socket.closed and kinds(socket.frames())[-1] == ["delta", "end"] and socket.past_send == 4

    live(test)


@pytest.mark.parametrize("failure", [BrokenPipeError(), RuntimeError("the transport is closed")])
def test_a_transport_that_fails_ends_the_response(failure: Exception) -> None:
    async def test(world: World) -> None:
        socket = RequestResponseCycle()
        generation, task = await world.respond(socket)
        socket.failure = failure
        generation.say("a")
        generation.say("b")
        await asyncio.wait([task])
        assert (task.exception() is failure) == isinstance(failure, RuntimeError)
        assert kinds(socket.frames()) == [["start"]]

    live(test)


def test_a_socket_that_fills_up_again_and_again_loses_nothing() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        for round_ in range(5):
            socket.full = True
            for letter in "xyz":
                generation.say(letter)
            await settle()
            socket.drain()
            await settle()
            assert sum(frame.get("tokens", 0) for frames in socket.frames() for frame in frames) == 3 * (
                round_ + 1
            )
        socket.full = True
        generation.say("end", finish="length")
        await settle()
        assert not task.done() and not socket.closed
        socket.drain()
        await task
        text = "".join(frame.get("text", "") for frames in socket.frames() for frame in frames)
        assert text == "xyz" * 5 + "end" and socket.closed

    live(test)


def test_a_head_that_waits_for_the_socket() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        socket.full = True
        generation, task = await world.respond(socket)
        generation.say("abc", finish="length")
        assert socket.messages == []
        socket.drain()
        await task
        assert kinds(socket.frames()) == [["start", "delta", "end"]]

    live(test)


def test_generation_pauses_while_the_socket_is_full() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        socket.full = True
        for _ in range(30):
            generation.say("a")
        assert generation.calls == ["pause"]
        socket.drain()
        await settle()
        assert generation.calls == ["pause", "resume"]
        generation.say("", finish="stop")
        await task

    live(test)


def test_a_socket_that_stays_full_is_cut() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        await asyncio.sleep(5)
        socket.full = True
        generation.say("a")
        await task
        assert asyncio.get_running_loop().time() == pytest.approx(35)
        assert not socket.closed and kinds(socket.frames()) == [["start"]]
        await settle()
        assert not world.generator.running

    live(test)


def test_the_stall_timeout_counts_only_while_the_socket_is_full() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        for _ in range(5):
            socket.full = True
            generation.say("a")
            await asyncio.sleep(20)
            socket.drain()
            await asyncio.sleep(20)
        generation.say("b", finish="length")
        await task
        assert socket.closed

    live(test)


@pytest.mark.parametrize("failure", [ConnectionResetError("reset"), BrokenPipeError("broken")])
@pytest.mark.parametrize("waits_first", [False, True])
def test_a_send_that_fails_as_sockets_do_ends_quietly(failure: OSError, waits_first: bool) -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        socket.failure, socket.full = failure, waits_first
        generation.say("a")
        generation.say("b")
        await settle()
        socket.drain()
        await task
        await settle()
        assert not world.generator.running and not socket.closed

    live(test)


@pytest.mark.parametrize("waits_first", [False, True])
def test_another_failure_of_send_is_raised_to_the_server_and_not_to_the_channel(waits_first: bool) -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        socket.failure, socket.full = RuntimeError("a bug"), waits_first
        generation.say("a")
        await settle()
        socket.drain()
        with pytest.raises(RuntimeError, match="a bug"):
            await task

    live(test)


def test_a_client_that_goes_away() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        generation.say("a")
        socket.gone.set()
        await task
        await settle()
        assert not world.generator.running and not socket.closed
        written = len(socket.messages)
        generation.say("b")
        assert len(socket.messages) == written

    live(test)


@pytest.mark.parametrize("full", [False, True])
def test_a_server_that_cancels_the_request(full: bool) -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        socket.full = full
        generation.say("a")
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        socket.drain()
        await settle()
        assert not world.generator.running and not socket.closed
        assert len(socket.bodies) == (1 if full else 2)

    live(test)


def test_heartbeats_come_only_in_silence() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        await asyncio.sleep(25)
        generation.say("a")
        await asyncio.sleep(11)
        generation.say("b")
        await asyncio.sleep(9)
        generation.say("", finish="stop")
        await task
        beats = [
            time
            for time, message in zip(socket.times, socket.messages, strict=True)
            if message.get("body") == HEARTBEAT
        ]
        assert beats == pytest.approx([10, 20, 35])
        assert socket.closed

    live(test)


def test_no_heartbeat_into_a_full_socket() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        socket.full = True
        generation.say("a")
        await asyncio.sleep(25)
        socket.drain()
        await asyncio.sleep(1)
        assert HEARTBEAT not in socket.bodies
        generation.say("", finish="stop")
        await task

    live(test)


def test_a_heartbeat_that_fills_the_socket() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        socket.full = True
        await asyncio.sleep(12)
        generation.say("a")
        socket.drain()
        await settle()
        assert socket.bodies[1] == HEARTBEAT and socket.frames()[2][0]["text"] == "a"
        generation.say("", finish="stop")
        await task

    live(test)


def test_a_stream_that_fails_ends_with_its_error_and_a_closed_body() -> None:
    async def test(world: World) -> None:
        socket = Socket()
        generation, task = await world.respond(socket)
        generation.say("a")
        generation.say("", finish="error")
        await task
        last = socket.frames()[-1][-1]
        assert (last["type"], last["cursor"], last["error"]["code"]) == ("error", "1", "generation_failed")
        assert socket.closed

    live(test)


class BrokenEncoder(NativeSseEncoder):
    """Fails from some frame on; `hopeless` fails for the error frame as well."""

    def __init__(self, *, hopeless: bool) -> None:
        super().__init__("st_1")
        self.hopeless = hopeless
        self.broken = False

    def encode(self, frames: Sequence[Frame]) -> bytes:
        if self.broken and (self.hopeless or not isinstance(frames[0], Error)):
            raise ValueError("secret")
        return super().encode(frames)


@pytest.mark.parametrize("hopeless", [False, True])
def test_frames_that_cannot_be_encoded(hopeless: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        socket, encoder = Socket(), BrokenEncoder(hopeless=hopeless)
        generation, task = await world.respond(socket, encoder)
        generation.say("a")
        encoder.broken = True
        generation.say("b")
        await task
        await settle()
        assert not world.generator.running
        assert socket.closed != hopeless
        assert b"secret" not in b"".join(socket.bodies)
        if not hopeless:
            assert socket.frames()[-1] == [
                {
                    "type": "error",
                    "cursor": "2",
                    "error": {
                        "code": "internal_error",
                        "message": "The server failed to write this stream.",
                        "type": "server_error",
                        "retryable": False,
                    },
                }
            ]

    with caplog.at_level(logging.ERROR):
        live(test)
    assert "could not be made" in caplog.text


def test_a_receive_that_fails_ends_the_response(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        socket = Socket()

        async def receive() -> Message:
            raise RuntimeError("the proxy is gone")

        socket.receive = receive  # type: ignore[method-assign]
        _, task = await world.respond(socket)
        await task
        await settle()
        assert not world.generator.running

    live(test)
    assert "receive() failed" in caplog.text


def test_resumed_goes_on_with_what_was_waited_for() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first: asyncio.Future[None] = loop.create_future()
        heard: list[str] = []

        async def steps() -> None:
            await first
            heard.append("first")
            await asyncio.sleep(0)
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                heard.append("cancelled")
                await asyncio.sleep(0)
                raise

        async def resumed() -> None:
            coroutine = steps().__await__()
            await Resumed(coroutine, next(coroutine))

        task = asyncio.ensure_future(resumed())
        await settle()
        first.set_result(None)
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert heard == ["first", "cancelled"]

    run(main())
