"""WebSockets over a real server and real sockets: slow readers, clients that go away, what the handshake and the close say."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.asgi.application import build_app
from app.model import Model
from app.service import GenerationService
from app.settings import Settings
from tests.fakes.clock import FakeClock
from tests.fakes.generator import FakeGeneration, FakeGenerator, FakeTokenizer
from tests.fakes.real_time import until
from tests.fakes.store import memory_store

SETTINGS = Settings.model_validate(
    {
        "models": [{"name": "letters"}],
        "limits": {"reader_stall_timeout_s": 0.3},
        "streams": {"reader_window_tokens": 1000},
    }
)
GENERATE = {"type": "generate", "prompt": "hi", "seed": 1, "on_disconnect": "cancel"}


class World:
    """A server on a port of its own, over a fake generator."""

    server: uvicorn.Server

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = AsyncExitStack()
        self.generator = FakeGenerator(capacity=100)
        model = Model(SETTINGS.models[0], FakeTokenizer(max_model_len_tokens=10**7), self.generator)
        self.service = GenerationService(
            SETTINGS, {"letters": model}, memory_store(), ingress="i1", clock=FakeClock()
        )

    async def connect(self, **options: Any) -> ClientConnection:
        """A connection with little room for what is not read."""
        room = socket.socket()
        room.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        room.connect(("127.0.0.1", self.port))
        address = f"ws://127.0.0.1:{self.port}/v1/ws"
        opening = connect(address, sock=room, max_queue=1, compression=None, close_timeout=0.1, **options)
        return await self.connections.enter_async_context(opening)

    async def start(self, client: ClientConnection) -> FakeGeneration:
        await client.send(json.dumps(GENERATE))
        assert (await hear(client))["type"] == "start"
        return self.generator.generations[-1]


@asynccontextmanager
async def serve() -> AsyncIterator[World]:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    world = World(listener.getsockname()[1])
    config = uvicorn.Config(
        build_app(world.service), lifespan="off", access_log=False, log_config=None, ws_ping_interval=None
    )
    server = world.server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield world
    finally:
        await world.connections.aclose()
        server.should_exit = server.force_exit = True
        await world.service.close()
        await serving
        assert not world.generator.running and not world.service.on_close


def live(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serve() as world:
            await test(world)

    asyncio.run(main())


async def hear(client: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(10):
        message: dict[str, Any] = json.loads(await client.recv())
    return message


def test_every_token_is_a_message_of_its_own() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        generation = await world.start(client)
        for letter in "abc":
            generation.say(letter)
            assert (await hear(client))["text"] == letter
        generation.say("", finish="stop")
        assert (await hear(client))["type"] == "end"

    live(test)


def test_a_client_that_goes_away_frees_its_place() -> None:
    async def test(world: World) -> None:
        for leave in ("abort", "close"):
            client = await world.connect()
            await world.start(client)
            if leave == "abort":
                client.transport.abort()
            else:
                await client.close()
            await until(lambda: not world.generator.running)

    live(test)


def test_a_client_that_never_reads_is_cut_and_keeps_nobody_waiting() -> None:
    async def test(world: World) -> None:
        slow, quick = await world.connect(), await world.connect()
        stuck, lively = await world.start(slow), await world.start(quick)
        while "pause" not in stuck.calls:
            stuck.say("x" * 5000)
            lively.say("y")
            assert (await hear(quick))["text"] == "y"
        await until(lambda: stuck.job.key not in world.generator.running)
        assert lively.job.key in world.generator.running
        lively.say("", finish="stop")
        assert (await hear(quick))["type"] == "end"

    live(test)


def test_a_client_that_reads_late_gets_everything() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        generation = await world.start(client)
        rounds = 0
        while not generation.calls:
            rounds += 1
            generation.say(f"{rounds:05}" + "x" * 5000)
        generation.say("end", finish="length")
        text = ""
        while (message := await hear(client))["type"] == "delta":
            text += message["text"]
        assert text == "".join(f"{round_:05}" + "x" * 5000 for round_ in range(1, rounds + 1)) + "end"

    live(test)


def test_the_handshake_says_why_it_was_refused() -> None:
    async def test(world: World) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await world.connect(origin="https://evil.example")
        response = refused.value.response
        assert response.status_code == 403 and response.body is not None
        assert response.headers["content-type"] == "application/json"
        assert json.loads(response.body)["error"]["code"] == "permission_denied"
        assert await world.connect(origin=f"http://127.0.0.1:{world.port}")

    live(test)


def test_the_close_says_why() -> None:
    async def test(world: World) -> None:
        big, idle = await world.connect(), await world.connect()
        await big.send("x" * (SETTINGS.limits.max_message_bytes + 1))
        with pytest.raises(ConnectionClosed) as ending:
            await big.recv()
        assert ending.value.rcvd is not None and ending.value.rcvd.code == 1009
        await world.service.close()
        with pytest.raises(ConnectionClosed) as ending:
            await idle.recv()
        assert ending.value.rcvd is not None and ending.value.rcvd.code == 1012
        assert ending.value.rcvd.reason.startswith("This server is shutting down.")

    live(test)


def test_a_server_that_drains_closes_its_sockets_and_the_streams_have_their_grace() -> None:
    """What Serve does first to a process behind HAProxy that is to go: the service goes on meanwhile."""

    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(json.dumps({**GENERATE, "on_disconnect": "grace"}))
        assert (await hear(client))["type"] == "start"
        world.server.should_exit = True
        with pytest.raises(ConnectionClosed) as ending:
            await hear(client)
        assert ending.value.rcvd is not None and ending.value.rcvd.code == 1012
        await until(lambda: not world.service.on_close)
        assert world.generator.running

    live(test)


def test_the_wrappers_around_the_servers_send_are_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    class Watched:
        def __init__(self, conversation: Any, send: Any, **more: Any) -> None:
            found.append(send)

        async def run(self, receive: Any) -> None:
            await receive()

    async def test(world: World) -> None:
        client = await world.connect()
        await until(lambda: bool(found))
        await client.close()

    monkeypatch.setattr("app.asgi.websocket_endpoint.Connection", Watched)
    live(test)
    assert type(found[0].__self__).__name__ == "WebSocketsSansIOProtocol"
