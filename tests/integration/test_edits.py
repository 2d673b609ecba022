"""Streams that are stopped and changed while they run, through any process, while processes die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED
from tests.integration.replicas import INGRESS, replaced, served
from tests.integration.sse_client import Reading, follow

LONG: dict[str, Any] = {
    "model": SIMULATED,
    "prompt": "Once upon a time",
    "max_tokens": 400,
    "return_token_ids": True,
    "on_disconnect": "continue",
}
STEERED = " But then the moon rose."
PATIENCE_S = 60.0

Frame = dict[str, Any]


class Socket:
    """A WebSocket that takes what comes, by stream, until it is closed. `errors` are the replies that say no."""

    def __init__(self, connection: ClientConnection) -> None:
        self.frames: dict[str, list[Frame]] = {}
        self.errors: list[Frame] = []
        self.closed = False
        self._connection = connection
        self._taking = asyncio.ensure_future(self._take())

    async def say(self, kind: str, **fields: Any) -> None:
        await self._connection.send(json.dumps({"type": kind, **fields}))

    async def start(self, **fields: Any) -> str:
        known = set(self.frames)
        await self.say("generate", **fields)
        await until(lambda: bool(set(self.frames) - known))
        [stream] = set(self.frames) - known
        return stream

    def tokens(self, stream: str) -> int:
        return int(self.frames[stream][-1]["cursor"]) if stream in self.frames else 0

    async def close(self) -> None:
        self._taking.cancel()
        await self._connection.close()

    async def _take(self) -> None:
        try:
            async for text in self._connection:
                message = json.loads(text)
                if "cursor" in message:
                    self.frames.setdefault(message["stream"], []).append(message)
                else:
                    self.errors.append(message)
        except ConnectionClosed:
            pass
        self.closed = True


async def until(happened: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < give_up_s, "it did not happen"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def sockets_to(server: Cluster, count: int) -> AsyncIterator[list[Socket]]:
    """Several connections, which go to both ingress processes."""
    before = served(server)
    async with AsyncExitStack() as stack:
        sockets = []
        for _ in range(count):
            address = f"{server.base_url.replace('http', 'ws', 1)}/v1/ws"
            socket = Socket(await stack.enter_async_context(connect(address, open_timeout=PATIENCE_S)))
            stack.push_async_callback(socket.close)
            sockets.append(socket)
        reached = [name for name, requests in served(server).items() if requests > before.get(name, 0)]
        assert len(reached) >= 2, reached
        yield sockets


def live(server: Cluster, test: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as client:
            await test(client)

    asyncio.run(main())


def token_ids(reading: Reading) -> list[int]:
    return [token for frame in reading.frames if frame["type"] == "delta" for token in frame["token_ids"]]


def put_in_text(piece: dict[str, Any]) -> str:
    """What was put in. Before it may stand what is left of a character that the model had begun and could not finish."""
    return str(piece["text"]).removeprefix("\ufffd")


def steered(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.get("steered")]


def put_in(untouched: list[int], frame: Frame) -> list[int]:
    """What a stream says into which the frame's tokens were put: the simulated model's tokens depend on their place alone."""
    end = int(frame["cursor"])
    begin = end - int(frame["tokens"])
    put: list[int] = frame["token_ids"]
    return untouched[:begin] + put + untouched[end:]


async def undisturbed(client: httpx.AsyncClient, seeds: range) -> list[list[int]]:
    """The tokens of each seed when nothing happens."""
    streams = []
    for seed in seeds:
        answer = await client.post("/v1/streams", json={**LONG, "seed": seed, "detach": True})
        streams.append(answer.json()["stream"])
    return [token_ids(await follow(client, stream, Reading())) for stream in streams]


async def whole(client: httpx.AsyncClient, stream: str) -> Reading:
    """The stream as it is read anew, with its text checked against its hash."""
    reading = await follow(client, stream, Reading())
    assert reading.hashes
    return reading


def test_text_put_in_through_any_process_survives_the_death_of_a_generator(server: Cluster) -> None:
    title = f"ServeReplica:streaming:Generator:{SIMULATED}"

    async def test(client: httpx.AsyncClient) -> None:
        seeds = range(8)
        expected = await undisturbed(client, seeds)
        async with sockets_to(server, 6) as [producing, *others]:
            streams = [await producing.start(**LONG, seed=seed) for seed in seeds]
            await until(lambda: all(producing.tokens(stream) > 30 for stream in streams))
            for number, stream in enumerate(streams):
                await others[number % 5].say("steer", stream=stream, text=STEERED)
            killed = server.processes(title)[0]
            os.kill(killed, signal.SIGKILL)
            await until(lambda: all(producing.frames[stream][-1]["type"] == "end" for stream in streams))
            for stream, untouched in zip(streams, expected, strict=True):
                [piece] = steered(producing.frames[stream])
                assert put_in_text(piece) == STEERED
                for reading in [await whole(client, stream) for _ in range(2)]:
                    [again] = steered(reading.frames)
                    assert (again["text"], again["cursor"]) == (piece["text"], piece["cursor"])
                    assert token_ids(reading) == put_in(untouched, piece)
                assert not producing.errors and not any(socket.errors for socket in others)
        await replaced(server, title, 2, killed)

    live(server, test)


def test_a_stop_string_added_through_any_process_ends_the_stream(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/streams", json={**LONG, "seed": 3, "stream": False, "stop": []})
        text = answer.json()["choices"][0]["text"]
        half = len(text) // 2
        stop = next(
            text[at : at + 24] for at in range(half, len(text)) if text.count(text[at : at + 24]) == 1
        )
        async with sockets_to(server, 5) as [producing, *others]:
            streams = [await producing.start(**LONG, seed=3) for _ in others]
            await until(lambda: all(producing.tokens(stream) > 20 for stream in streams))
            for stream, other in zip(streams, others, strict=True):
                for _ in range(2):
                    await other.say("update", stream=stream, stop=[stop])
            await until(lambda: all(producing.frames[stream][-1]["type"] == "end" for stream in streams))
            for stream in streams:
                reading = await whole(client, stream)
                end = reading.frames[-1]
                assert end["choices"] == [{"index": 0, "finish_reason": "stop", "stop_reason": stop}]
                assert reading.texts[0] == text[: text.index(stop)]
            await others[0].say("update", stream=streams[0], stop=["x"])
            await others[1].say("steer", stream=streams[0], text="x")
            await until(lambda: all(other.errors for other in others[:2]))
            assert [other.errors[0]["error"]["code"] for other in others[:2]] == ["stream_ended"] * 2

    live(server, test)


def test_a_stream_is_stopped_through_any_process(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with sockets_to(server, 5) as [producing, *others]:
            streams = [await producing.start(**LONG, seed=3) for _ in others]
            await until(lambda: all(producing.tokens(stream) > 20 for stream in streams))
            for stream, other in zip(streams, others, strict=True):
                await other.say("stop", stream=stream)
            await until(lambda: all(producing.frames[stream][-1]["type"] == "end" for stream in streams))
            for stream in streams:
                end = producing.frames[stream][-1]
                assert end["choices"] == [{"index": 0, "finish_reason": "stop", "stop_reason": None}]
                assert (await whole(client, stream)).frames[-1]["cursor"] == end["cursor"]

    live(server, test)


def test_the_model_goes_on_from_what_was_put_in(server: Cluster) -> None:
    story = {
        "model": "storyteller",
        "messages": [{"role": "user", "content": "Tell me a story about a fox."}],
        "max_tokens": 120,
        "ignore_eos": True,
        "temperature": 0,
        "return_token_ids": True,
    }

    async def test(client: httpx.AsyncClient) -> None:
        async with sockets_to(server, 3) as [producing, *others]:
            stream = await producing.start(**story)
            await until(lambda: producing.tokens(stream) > 5)
            await others[0].say("steer", stream=stream, text=STEERED)
            await others[1].say("steer", stream=stream, text=STEERED)
            await until(lambda: producing.frames[stream][-1]["type"] == "end")
            reading = await whole(client, stream)
            assert [put_in_text(piece) for piece in steered(reading.frames)] == [STEERED] * 2
            assert len(token_ids(reading)) == 120
            assert reading.texts[0].count(STEERED) >= 2

    live(server, test)


def test_changes_survive_the_death_of_the_process_that_drives_the_stream(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        seeds = range(8)
        expected = await undisturbed(client, seeds)
        async with sockets_to(server, 8) as sockets:
            streams = [
                await socket.start(**LONG, seed=seed) for socket, seed in zip(sockets, seeds, strict=True)
            ]
            await until(
                lambda: all(
                    socket.tokens(stream) > 20 for socket, stream in zip(sockets, streams, strict=True)
                )
            )
            killed = server.processes(INGRESS)[0]
            os.kill(killed, signal.SIGKILL)
            await until(lambda: any(socket.closed for socket in sockets))
            await asyncio.sleep(1.0)  # the others of the same process follow
            seen = [list(socket.frames[stream]) for socket, stream in zip(sockets, streams, strict=True)]
            left = [socket for socket in sockets if not socket.closed]
            assert 0 < len(left) < len(sockets)
            for number, stream in enumerate(streams):
                await left[number % len(left)].say("steer", stream=stream, text=STEERED)
            for stream, untouched, before in zip(streams, expected, seen, strict=True):
                reading = await whole(client, stream)
                [piece] = steered(reading.frames)
                assert put_in_text(piece) == STEERED
                assert token_ids(reading) == put_in(untouched, piece)
                # What was seen before the death stays true.
                had = [token for frame in before for token in frame.get("token_ids", ())]
                assert token_ids(reading)[: len(had)] == had
        await replaced(server, INGRESS, 2, killed)

    live(server, test)
