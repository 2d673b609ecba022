"""The same over a real server and real sockets: exact bytes, slow readers, clients that go away."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn

from app.asgi.application import build_app
from app.model import Model
from app.service import GenerationService
from app.settings import Settings
from tests.fakes.clock import FakeClock
from tests.fakes.generator import FakeGeneration, FakeGenerator, FakeTokenizer
from tests.fakes.real_time import until
from tests.fakes.store import memory_store

STALL_TIMEOUT_S = 0.3


class World:
    """A server on a port of its own, over a fake generator."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writers: list[asyncio.StreamWriter] = []
        self.generator = FakeGenerator(capacity=100)
        settings = Settings.model_validate(
            {
                "models": [{"name": "letters"}],
                "limits": {"reader_stall_timeout_s": STALL_TIMEOUT_S},
                "streams": {"reader_window_tokens": 1000},
            }
        )
        tokenizer = FakeTokenizer(max_model_len_tokens=10**7)
        model = Model(settings.models[0], tokenizer, self.generator)
        self.service = GenerationService(
            settings, {"letters": model}, memory_store(), ingress="i1", clock=FakeClock()
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection with little room for what is not read."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
        self.writers.append(writer)
        return reader, writer

    async def start(
        self, **fields: object
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, FakeGeneration]:
        """Starts a stream; returns the connection, read up to the end of the head, and the generation."""
        reader, writer = await self.connect()
        writer.write(post({"prompt": "hi", "seed": 1, "on_disconnect": "cancel", **fields}))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200 OK\r\n") and "transfer-encoding: chunked" in head
        return reader, writer, self.generator.generations[-1]


@asynccontextmanager
async def serve() -> AsyncIterator[World]:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    world = World(listener.getsockname()[1])
    config = uvicorn.Config(
        build_app(world.service), http="httptools", lifespan="off", access_log=False, log_config=None
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield world
    finally:
        for writer in world.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        server.should_exit = server.force_exit = True
        await world.service.close()
        await serving


def live(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serve() as world:
            await test(world)

    asyncio.run(main())


def post(fields: dict[str, object]) -> bytes:
    body = json.dumps(fields).encode()
    head = "POST /v1/streams HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def chunk(body: str) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body.encode()), body.encode())


def test_every_token_is_a_chunk_of_its_own() -> None:
    async def test(world: World) -> None:
        reader, _, generation = await world.start()
        size = int(await reader.readline(), 16)
        start = json.loads((await reader.readexactly(size + 2)).split(b"data: ")[1])
        stream_id = start["stream"]
        for count, letter in enumerate("abc", start=1):
            generation.say(letter)
            expected = chunk(
                f'id: {stream_id}:{count}\ndata: {{"type":"delta","cursor":"{count}","index":0,"text":"{letter}","tokens":1}}\n\n'
            )
            assert await reader.readexactly(len(expected)) == expected
        generation.say("", finish="stop")
        rest = await reader.readuntil(b"0\r\n\r\n")
        assert b'data: {"type":"end","cursor":"3",' in rest

    live(test)


@pytest.mark.parametrize("extra", [b"", b"connection: keep-alive\r\n"])
def test_an_http_1_0_client_gets_no_chunks(extra: bytes) -> None:
    async def test(world: World) -> None:
        reader, writer = await world.connect()
        asked = post({"prompt": "hi", "seed": 1}).replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n" + extra)
        writer.write(asked)
        head = await reader.readuntil(b"\r\n\r\n")
        assert (
            b"transfer-encoding" not in head
            and b"content-length" not in head
            and b"connection: close" in head
        )
        assert (await reader.readuntil(b"\n\n")).startswith(b"id: st_")
        [generation] = world.generator.generations
        generation.say("a")
        assert b'"text":"a"' in await reader.readuntil(b"\n\n")  # at once
        generation.say("", finish="stop")
        rest = await reader.read()  # to the end of the connection
        assert rest.startswith(b"id: st_") and rest.endswith(b"\n\n") and rest.count(b'"type":"end"') == 1

    live(test)


@pytest.mark.parametrize("ending", ["whole", "error"])
def test_an_http_1_0_client_gets_the_length_of_what_has_one(ending: str) -> None:
    async def test(world: World) -> None:
        reader, writer = await world.connect()
        fields: dict[str, object] = {"prompt": "hi", "stream": False, "n": 1 if ending == "whole" else 0}
        writer.write(post(fields).replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"))
        if ending == "whole":
            await until(lambda: bool(world.generator.generations))
            world.generator.generations[-1].say("ok", finish="length")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"content-length: %d\r\n" % len(body) in head and b"transfer-encoding" not in head
        assert json.loads(body)

    live(test)


def test_a_client_that_goes_away_frees_its_place() -> None:
    async def test(world: World) -> None:
        _, writer, generation = await world.start()
        generation.say("abc")
        assert world.generator.running
        writer.close()
        await until(lambda: not world.generator.running)

    live(test)


def test_a_client_that_never_reads_is_cut_and_keeps_nobody_waiting() -> None:
    async def test(world: World) -> None:
        reader, _, stuck = await world.start()
        quick_reader, _, quick = await world.start()
        text = "x" * 5000
        said = 0
        while "pause" not in stuck.calls:
            stuck.say(text)
            said += len(text)
            quick.say("y")
            line = b""
            while b'"text":"y"' not in line:
                line = await asyncio.wait_for(quick_reader.readline(), 5)
        await until(lambda: stuck.job.key not in world.generator.running)
        assert quick.job.key in world.generator.running
        received = await reader.read(-1)
        assert not received.endswith(b"0\r\n\r\n") and b'"type":"end"' not in received
        quick.say("", finish="stop")
        assert (await quick_reader.readuntil(b"0\r\n\r\n")).endswith(b"\r\n0\r\n\r\n")

    live(test)


def test_a_client_that_reads_late_gets_everything() -> None:
    async def test(world: World) -> None:
        reader, _, slow = await world.start()
        rounds = 0
        while not slow.calls:
            rounds += 1
            slow.say(f"{rounds:05}" + "x" * 5000)
        assert slow.calls == ["pause"]
        slow.say("end", finish="length")
        raw = await asyncio.wait_for(read_body(reader), 10)
        frames = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: ")]
        text = "".join(frame.get("text", "") for frame in frames)
        assert text == "".join(f"{round_:05}" + "x" * 5000 for round_ in range(1, rounds + 1)) + "end"
        assert frames[-1]["type"] == "end"

    live(test)


async def read_body(reader: asyncio.StreamReader) -> bytes:
    """A chunked body, put together."""
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    return body


@pytest.mark.parametrize("fields", [{"stream": False}, {"stream": True}])
def test_a_connection_is_kept_for_the_next_request(fields: dict[str, object]) -> None:
    async def test(world: World) -> None:
        reader, writer = await world.connect()
        for _ in range(2):
            asked = len(world.generator.generations)
            writer.write(post({"prompt": "hi", **fields}))
            await until(lambda: len(world.generator.generations) > asked)  # noqa: B023
            world.generator.generations[-1].say("ok", finish="length")
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            if fields["stream"]:
                assert b'"type":"end"' in await read_body(reader)
                assert await reader.readline() == b"\r\n"
            else:
                length = int(answer.split(b"content-length: ")[1].split(b"\r\n")[0])
                assert b'"text":"ok"' in await reader.readexactly(length)

    live(test)


def test_a_server_that_stops_leaves_no_clean_end_of_body() -> None:
    async def test(world: World) -> None:
        reader, _, generation = await world.start()
        generation.say("abc")
        await world.service.close()
        received = await asyncio.wait_for(reader.read(-1), 5)
        assert b'"text":"abc"' in received and not received.endswith(b"0\r\n\r\n")
        assert b'"type":"error"' not in received and b'"type":"end"' not in received

    live(test)
