"""The client library over a server whose connections break: each frame once, cancelled when left, errors of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.schema.frames import Delta, End, Error, ErrorDetail, Start
from app.schema.native import StreamBody
from app.schema.requests import OnDisconnect
from app.wire.sse import NativeSseEncoder
from streaming_inference import (
    Client,
    ClientError,
    Conflict,
    Expired,
    GenerationFailed,
    NotFound,
    NotReachable,
    ProtocolError,
    RateLimited,
    RequestFields,
    RetryPolicy,
    StreamClosed,
    TextMismatch,
    Unavailable,
)
from tests.fakes.clock import FakeClock, settle
from tests.fakes.stream_server import STREAM, FakeStreamServer, Misfortune, refused

CUT = Misfortune(httpx.ReadError, after_bytes=240)
AWAY = Misfortune(httpx.ConnectError)
LOST = Misfortune(httpx.ReadError, lost=True)
FAILED = Error("3", ErrorDetail("generator_unavailable", "Gone.", "server_error", True))


class QuickClock(FakeClock):
    """Sleeping takes no time, and is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.slept_s: list[float] = []

    async def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        await asyncio.sleep(0)


class World:
    def __init__(self, server: FakeStreamServer, policy: RetryPolicy | None = None) -> None:
        self.server = server
        self.clock = QuickClock()
        self.client = Client("http://test/api", api_key="k", retry=policy, transport=server, clock=self.clock)


def live(
    test: Callable[[World], Awaitable[None]],
    server: FakeStreamServer | None = None,
    *misfortunes: Misfortune,
    policy: RetryPolicy | None = None,
) -> World:
    """Runs `test`, after which no connection is left open."""
    world = World(server or FakeStreamServer(), policy)
    world.server.misfortunes.extend(misfortunes)

    async def main() -> None:
        async with world.client:
            await test(world)

    asyncio.run(main())
    assert world.server.open_connections == 0
    return world


async def read(world: World, **fields: Any) -> str:
    async with world.client.generate(prompt="hi", **fields) as stream:
        assert stream.id == STREAM
        return "".join([text async for text in stream.text()])


def test_frames_come_as_they_are() -> None:
    async def test(world: World) -> None:
        async with world.client.generate(prompt="hi", max_tokens=3, on_disconnect="grace") as stream:
            frames = [frame async for frame in stream]
        assert [type(frame) for frame in frames] == [Start, Delta, Delta, Delta, End]
        assert (stream.start, stream.end, stream.cursor) == (frames[0], frames[-1], "3")

    world = live(test)
    (request,) = world.server.requests
    assert str(request.url) == "http://test/api/v1/streams"
    assert request.headers["authorization"] == "Bearer k"
    assert world.server.body() == {"prompt": "hi", "max_tokens": 3, "on_disconnect": "grace"}
    assert world.server.cancelled == []


def test_a_result_is_the_whole() -> None:
    async def test(world: World) -> None:
        result = await world.client.generate(prompt="hi", n=2).result()
        assert [choice.text for choice in result.choices] == ["ab", "xyz"]
        assert (result.text, result.finish_reason, result.stream) == ("ab", "stop", STREAM)
        assert (result.cursor, result.usage.completion_tokens, result.verified) == ("2.3", 5, True)

    live(test, FakeStreamServer(["a", "b"], ["x", "y", "z"]))


def test_all_ways_to_read_share_one_position() -> None:
    async def test(world: World) -> None:
        async with world.client.generate(prompt="hi") as stream:
            async with aclosing(stream.text()) as texts:
                assert await anext(texts) == "a"
            frame = await stream.next()
            assert isinstance(frame, Delta) and frame.text == "b"
            assert [text async for text in stream.text()] == ["c"]
            assert (await stream.result()).text == "abc"
            assert await stream.next() is None

    assert live(test).server.asked == ["POST /api/v1/streams"]


@pytest.mark.parametrize(
    "misfortunes",
    [
        [AWAY],
        [LOST],
        [CUT],
        [replace(CUT, error=None)],
        [replace(CUT, error=httpx.ReadTimeout)],
        [replace(CUT, after_bytes=0)],
        [refused(503, retry_after="2")],
        [refused(429, retry_after="1")],
        [Misfortune(status=502, body=b"<html>Bad gateway")],
        [LOST, AWAY, CUT, refused(503), CUT, AWAY, CUT],
    ],
)
def test_what_breaks_is_mended(misfortunes: list[Misfortune]) -> None:
    async def test(world: World) -> None:
        assert await read(world) == "abc"

    world = live(test, None, *misfortunes)
    assert len(world.server.started) == 1
    assert len(world.clock.slept_s) == len(misfortunes)


@given(
    tokens=st.lists(
        st.lists(st.sampled_from(["a", " b", "é", "", "🙂"]), max_size=8), min_size=1, max_size=3
    ),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    misfortunes=st.lists(
        st.one_of(
            st.sampled_from([AWAY, LOST, refused(503), refused(502)]),
            st.builds(
                Misfortune,
                error=st.sampled_from([httpx.ReadError, httpx.RemoteProtocolError, None]),
                after_bytes=st.integers(0, 900),
            ),
        ),
        max_size=8,
    ),
)
def test_whatever_breaks_each_frame_comes_once(
    tokens: list[list[str]], sizes: list[int], misfortunes: list[Misfortune]
) -> None:
    async def test(world: World) -> None:
        result = await world.client.generate(prompt="hi").result()
        assert [choice.text for choice in result.choices] == ["".join(text) for text in tokens]
        assert result.verified

    assert len(live(test, FakeStreamServer(*tokens, sizes=sizes), *misfortunes).server.started) == 1


@pytest.mark.parametrize("error", [httpx.ReadError, None])
@pytest.mark.parametrize("n", [1, 3])
def test_cut_at_every_byte_each_frame_comes_once(n: int, error: type[httpx.TransportError] | None) -> None:
    texts = [["a", "é", "", "b"], [" c", "d"], ["🙂"]][:n]
    frames = FakeStreamServer(*texts).frames()
    whole = b"".join(b": ping\n\n" + NativeSseEncoder(STREAM).encode([frame]) for frame in frames)

    async def test(world: World) -> None:
        async with world.client.generate(prompt="hi") as stream:
            start, *deltas, end = [frame async for frame in stream]
            assert (start, end) == (frames[0], frames[-1])
            assert await stream.next() is None
        seen: list[list[str]] = [[] for _ in texts]
        for delta in deltas:
            assert isinstance(delta, Delta) and delta.tokens == 1
            seen[delta.index].append(delta.text)
        assert seen == texts

    for cut in range(len(whole) + 1):
        world = live(test, FakeStreamServer(*texts), Misfortune(error, after_bytes=cut))
        assert len(world.server.started) == 1


def test_a_broken_connection_goes_on_behind_the_last_frame() -> None:
    async def test(world: World) -> None:
        assert await read(world) == "abc"

    world = live(test, None, CUT, replace(CUT, after_bytes=30))
    assert world.server.asked == [
        "POST /api/v1/streams",
        f"GET /api/v1/streams/{STREAM}/events?after=1",
        f"GET /api/v1/streams/{STREAM}/events?after=1",
    ]


def test_a_lost_answer_starts_no_second_stream() -> None:
    async def test(world: World) -> None:
        assert await read(world) == "abc"

    world = live(test, None, LOST, LOST)
    keys = {request.headers["idempotency-key"] for request in world.server.requests}
    assert len(keys) == 1 and len(world.server.requests) == 3


def test_delays_grow_and_retry_after_is_obeyed() -> None:
    async def test(world: World) -> None:
        assert await read(world) == "abc"

    slept = live(test, None, *[AWAY] * 6, refused(503, retry_after="7")).clock.slept_s
    for delay_s, longest_s in zip(slept, [0.2, 0.4, 0.8, 1.6, 3.2, 5.0], strict=False):
        assert longest_s / 2 <= delay_s <= longest_s
    assert slept[6] == 7


@pytest.mark.parametrize(
    ("misfortune", "error"),
    [(AWAY, NotReachable), (refused(503), Unavailable), (refused(429, "too_many_streams"), RateLimited)],
)
def test_there_is_a_limit(misfortune: Misfortune, error: type[ClientError]) -> None:
    async def test(world: World) -> None:
        with pytest.raises(error) as raised:
            await read(world)
        assert raised.value.retryable and raised.value.stream is None

    world = live(test, None, *[misfortune] * 50, policy=RetryPolicy(retries=3))
    assert len(world.server.requests) == 4


def test_the_limit_counts_from_the_last_progress_and_says_where_to_resume() -> None:
    async def test(world: World) -> None:
        with pytest.raises(NotReachable) as raised:
            await read(world)
        assert (raised.value.stream, raised.value.cursor) == (STREAM, "2")

    one_frame = replace(CUT, after_bytes=140)
    misfortunes = [CUT, AWAY, AWAY, one_frame, AWAY, AWAY, AWAY]
    live(test, None, *misfortunes, *[AWAY] * 9, policy=RetryPolicy(retries=3))


@pytest.mark.parametrize(
    ("misfortune", "error", "code"),
    [
        (refused(404, "model_not_found"), NotFound, "model_not_found"),
        (refused(409, "idempotency_conflict", x_should_retry="false"), Conflict, "idempotency_conflict"),
        (refused(410, "stream_expired"), Expired, "stream_expired"),
        (refused(500, "internal_error", x_should_retry="false"), Unavailable, "internal_error"),
        (refused(503, "overloaded", x_should_retry="false"), Unavailable, "overloaded"),
        (refused(503, "overloaded", retry_after="3600"), Unavailable, "overloaded"),
    ],
)
def test_what_waiting_does_not_mend_is_raised_at_once(
    misfortune: Misfortune, error: type[ClientError], code: str
) -> None:
    async def test(world: World) -> None:
        with pytest.raises(error, match="No") as raised:
            await read(world)
        assert raised.value.code == code

    assert len(live(test, None, misfortune).server.requests) == 1


def test_an_error_frame_is_given_and_then_raised() -> None:
    async def test(world: World) -> None:
        frames = []
        with pytest.raises(GenerationFailed, match="Gone") as raised:
            async for frame in world.client.generate(prompt="hi"):
                frames.append(frame)
        assert frames[-1] == FAILED
        error = raised.value
        assert (error.code, error.retryable, error.stream, error.cursor) == (
            "generator_unavailable",
            True,
            STREAM,
            "3",
        )
        with pytest.raises(GenerationFailed):
            await world.client.generate(prompt="hi").result()

    assert live(test, FakeStreamServer(ending=FAILED)).server.cancelled == []


def test_an_error_may_be_all_that_comes() -> None:
    async def test(world: World) -> None:
        world.server.replaced[0] = FAILED
        with pytest.raises(GenerationFailed, match="Gone"):
            await world.client.generate(prompt="hi").result()

    live(test)


@pytest.mark.parametrize(
    "number_and_frame",
    [
        (2, Delta("3", 0, "b", 1)),
        (2, Delta("1", 0, "b", 1)),
        (2, Delta("2.0", 0, "b", 1)),
        (2, Delta("2", 1, "b", 1)),
        (2, Delta("x", 0, "b", 1)),
        (1, Start("0", STREAM, "m", 1, 7, 2)),
        (0, Delta("1", 0, "a", 1)),
        (0, Start("0", "st_2", "m", 1, 7, 2)),
    ],
)
def test_a_gap_or_a_repetition_is_an_error(number_and_frame: tuple[int, Any]) -> None:
    async def test(world: World) -> None:
        number, frame = number_and_frame
        world.server.replaced[number] = frame
        with pytest.raises(ProtocolError):
            await read(world)

    assert live(test).server.cancelled == [STREAM]


def test_another_text_is_an_error_instead_of_the_end() -> None:
    async def test(world: World) -> None:
        world.server.replaced[3] = Delta("3", 0, "C", 1)
        with pytest.raises(TextMismatch, match="choice 0"):
            await read(world)
        stream = world.client.generate(prompt="hi")
        with pytest.raises(TextMismatch):
            await stream.result()
        assert stream.end is None

    live(test)


@pytest.mark.parametrize("junk", [b"data: {\n\n", b'data: {"type":"x"}\n\n', b"data: \xff\n\n"])
def test_what_is_no_frame_is_an_error(junk: bytes) -> None:
    async def test(world: World) -> None:
        with pytest.raises(ProtocolError, match="no frame"):
            await read(world)

    live(test, None, Misfortune(status=200, headers={"x-stream-id": STREAM}, body=junk))


def test_a_stream_is_resumed_from_its_start_or_behind_a_cursor() -> None:
    async def test(world: World) -> None:
        whole = await world.client.resume(STREAM).result()
        assert (whole.text, whole.verified) == ("abc", True) and whole.start is not None
        rest = await world.client.resume(STREAM, "1").result()
        assert (rest.text, rest.verified, rest.start) == ("bc", False, None)
        assert (await world.client.resume(STREAM, "3").result()).text == ""
        with pytest.raises(ValueError, match="not a cursor"):
            world.client.resume(STREAM, "1;drop")

    world = live(test, None, CUT)
    assert world.server.asked[1] == f"GET /api/v1/streams/{STREAM}/events?after=1"


def test_names_can_not_leave_their_place_in_the_address() -> None:
    async def test(world: World) -> None:
        await world.client.status("../x?y")

    assert live(test).server.asked == ["GET /api/v1/streams/..%2Fx%3Fy"]


async def _break(world: World) -> None:
    async with world.client.generate(prompt="hi") as stream:
        async for _ in stream:
            break


async def _raise(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        async with world.client.generate(prompt="hi"):
            raise ZeroDivisionError


async def _close_the_iterator(world: World) -> None:
    async with aclosing(world.client.generate(prompt="hi").text()) as texts:
        async for _ in texts:
            break


async def _be_cancelled(world: World) -> None:
    world.server.hold_after = 2
    reading = asyncio.ensure_future(read(world))
    await settle()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def _be_cancelled_while_smooth(world: World) -> None:
    world.server.hold_after = 2

    async def listen() -> None:
        async for _ in world.client.generate(prompt="hi").text(smooth=True):
            pass

    reading = asyncio.ensure_future(listen())
    await settle()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize(
    "leave", [_break, _raise, _close_the_iterator, _be_cancelled, _be_cancelled_while_smooth]
)
def test_a_stream_that_is_left_is_cancelled(leave: Callable[[World], Awaitable[None]]) -> None:
    assert live(leave).server.cancelled == [STREAM]


def test_a_stream_is_cancelled_although_its_reader_is_cancelled_twice() -> None:
    async def test(world: World) -> None:
        world.server.hold_after = 2
        reading = asyncio.ensure_future(read(world))
        await settle()
        reading.cancel()
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    assert live(test).server.cancelled == [STREAM]


def test_a_server_that_is_gone_keeps_nobody_from_leaving() -> None:
    async def test(world: World) -> None:
        async with world.client.generate(prompt="hi"):
            world.server.misfortunes.append(AWAY)

    world = live(test)
    assert world.server.asked[-1].startswith("DELETE") and world.clock.slept_s == []


def test_a_stream_can_be_left_to_go_on() -> None:
    async def test(world: World) -> None:
        async with world.client.generate(prompt="hi", on_exit="leave"):
            pass
        async with world.client.resume(STREAM, on_exit="leave") as stream:
            await stream.next()

    world = live(test)
    assert world.server.cancelled == []
    assert world.server.body()["on_disconnect"] == "continue"


def test_a_stream_that_was_left_can_not_be_read() -> None:
    async def test(world: World) -> None:
        async with world.client.generate(prompt="hi") as stream:
            pass
        with pytest.raises(StreamClosed):
            await stream.next()
        with pytest.raises(StreamClosed):
            await stream.result()

    live(test)


def test_one_reads_at_a_time() -> None:
    async def test(world: World) -> None:
        world.server.hold_after = 0
        async with world.client.generate(prompt="hi") as stream:
            reading = asyncio.ensure_future(stream.next())
            await settle()
            with pytest.raises(RuntimeError, match="being read"):
                await stream.next()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    live(test)


def test_a_reader_that_is_cancelled_takes_nothing() -> None:
    async def test(world: World) -> None:
        world.server.hold_after = 2
        async with world.client.generate(prompt="hi") as stream:
            await stream.next()
            await stream.next()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await stream.next()
            world.server.hold_after = None
            assert (await stream.result()).text == "abc"

    live(test)


def test_a_stream_is_cancelled_while_it_is_read() -> None:
    async def test(world: World) -> None:
        async with world.client.generate(prompt="hi") as stream:
            await stream.cancel()
            assert (await stream.result()).finish_reason == "stop"

    assert live(test).server.cancelled == [STREAM]


def test_smooth_text_is_the_same_text() -> None:
    async def test(world: World) -> None:
        texts = [text async for text in world.client.generate(prompt="hi").text(smooth=True)]
        assert "".join(texts) == "abc"

    live(test, None, CUT)


def test_the_other_calls() -> None:
    async def test(world: World) -> None:
        assert await world.client.start(prompt="hi") == STREAM
        assert (await world.client.status(STREAM)).state == "ended"
        assert (await world.client.cancel(STREAM)).cursor == "3"
        assert [model.id for model in await world.client.models()] == ["m"]
        world.server.misfortunes.append(Misfortune(status=200, body=b"[]"))
        with pytest.raises(ProtocolError):
            await world.client.models()

    world = live(test, None, LOST, AWAY)
    assert world.server.body()["detach"] is True and len(world.server.started) == 1


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "ws://host/"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not the address"):
        Client(url)


@pytest.mark.parametrize("key", ["a\nb", "schlüssel"])
def test_a_key_that_no_header_can_have_is_refused_without_an_echo(key: str) -> None:
    with pytest.raises(ValueError) as raised:
        Client(api_key=key)
    assert key not in str(raised.value)


def test_a_request_that_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError):
        Client().generate(prompt="hi", temperature=float("nan"))


def test_the_fields_are_those_of_the_server() -> None:
    hints = get_type_hints(RequestFields)
    assert set(hints) == set(StreamBody.model_fields) - {"stream", "detach"}
    assert get_args(hints["on_disconnect"]) == get_args(OnDisconnect)


def test_the_library_loads_nothing_of_the_server() -> None:
    heavy = "fastapi starlette pydantic tokenizers numpy ray torch transformers uvicorn"
    program = f"import sys, streaming_inference; print(*set('{heavy}'.split()) & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
