"""WebSockets to the running server, with a client that is not ours, in both of Serve's modes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED, SINGLE, integration_config
from tests.integration.driver import driver
from tests.integration.redis_server import RedisServer
from tests.integration.sse_client import Reading, follow

Frame = dict[str, Any]

PATIENCE_S = 30
LONG: Frame = {"model": SIMULATED, "prompt": "Once upon a time", "max_tokens": 300, "seed": 3}
MIB = 1 << 20


class Socket:
    """A WebSocket and what it was sent, by stream."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: dict[str, list[Frame]] = {}
        self.replies: list[Frame] = []

    async def say(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def hear(self, patience_s: float = PATIENCE_S) -> Frame:
        """The next message."""
        async with asyncio.timeout(patience_s):
            text = await self.connection.recv()
        assert isinstance(text, str)
        message: Frame = json.loads(text)
        if "cursor" in message:
            self.frames.setdefault(message["stream"], []).append(message)
        else:
            self.replies.append(message)
        return message

    async def start(self, **fields: Any) -> str:
        """The id of a new stream, whose start frame was the next one with its ref."""
        ref = f"r{random.randrange(10**9)}"
        await self.say("generate", ref=ref, **fields)
        while (message := await self.hear()).get("ref") != ref:
            pass
        assert message["type"] == "start", message
        stream = message["stream"]
        assert isinstance(stream, str)
        return stream

    async def until_ended(self, *streams: str) -> None:
        while any(self.frames[stream][-1]["type"] not in ("end", "error") for stream in streams):
            await self.hear()

    async def until_tokens(self, stream: str, tokens: int) -> None:
        while self.tokens(stream) < tokens:
            await self.hear()

    def tokens(self, stream: str) -> int:
        return sum(map(int, self.frames[stream][-1]["cursor"].split(".")))

    def reading(self, stream: str) -> Reading:
        """What it has of the stream, checked frame by frame."""
        reading = Reading()
        for frame in self.frames[stream]:
            reading.take(f"{stream}:{frame['cursor']}", frame)
        return reading


@asynccontextmanager
async def socket_to(server: Cluster, **options: Any) -> AsyncIterator[Socket]:
    address = f"{server.base_url.replace('http', 'ws', 1)}/v1/ws"
    async with connect(address, open_timeout=PATIENCE_S, **options) as connection:
        yield Socket(connection)


def live(server: Cluster, test: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as client:
            await test(client)

    asyncio.run(main())


async def closed(socket: Socket, patience_s: float = PATIENCE_S) -> int | None:
    """The code that the server closes with, when it does."""
    with pytest.raises(ConnectionClosed) as ending:
        while True:
            await socket.hear(patience_s)
    return None if ending.value.rcvd is None else ending.value.rcvd.code


async def place_is_free(server: Cluster) -> None:
    """Returns when the model with one place has answered."""
    async with socket_to(server) as socket:
        stream = await socket.start(model=SINGLE, prompt="Hi", max_tokens=1)
        await socket.until_ended(stream)


def test_many_streams_on_one_socket_come_whole(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        requests = [
            {**LONG, "max_tokens": 20 + number, "seed": number, "n": 1 + number % 3} for number in range(40)
        ]
        async with socket_to(server) as socket:
            for number, fields in enumerate(requests):
                await socket.say("generate", ref=str(number), **fields)
            started: dict[int, str] = {}
            while len(started) < len(requests):
                message = await socket.hear()
                if message["type"] == "start":
                    started[int(message["ref"])] = message["stream"]
            await socket.until_ended(*started.values())
        assert socket.replies == []
        for number, fields in enumerate(requests[:6]):
            whole = (await client.post("/v1/streams", json={**fields, "stream": False})).json()
            reading = socket.reading(started[number])
            assert reading.hashes == whole["text_sha256"]
        for stream in started.values():
            assert len(socket.reading(stream).hashes) in (1, 2, 3)

    live(server, test)


def test_a_shut_window_pauses_the_generator_and_an_ack_lets_it_go_on(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with socket_to(server) as socket:
            stream = await socket.start(**LONG, window=10)
            await socket.until_tokens(stream, 10)
            # Another stream's tokens show that time passes: 20 ms each.
            clock = await socket.start(**{**LONG, "max_tokens": 60})
            await socket.until_ended(clock)
            assert socket.tokens(stream) == 10
            made = (await client.get(f"/v1/streams/{stream}")).json()["cursor"]
            assert int(made) < 40, "the generator has stopped soon after the window was shut"
            while socket.frames[stream][-1]["type"] != "end":
                await socket.say("ack", stream=stream, cursor=socket.frames[stream][-1]["cursor"])
                before = socket.tokens(stream)
                await socket.hear()
                assert socket.tokens(stream) - before <= 10
            await socket.say("ack", stream=stream, cursor="300")
            await socket.say("ping", ref="last")
            assert (await socket.hear())["type"] == "pong"
        assert socket.reading(stream).hashes and socket.replies[:-1] == []

    live(server, test)


def test_garbage_is_answered_and_the_streams_go_on(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        rng = random.Random(5)
        async with socket_to(server) as socket:
            stream = await socket.start(**LONG)
            garbage: list[str | bytes] = ["", "{", "[]", '{"type":"sing"}', b"\x00\xff", b"{}", "[" * 5000]
            garbage += [rng.randbytes(rng.randrange(200)) for _ in range(10)]
            garbage += ["".join(chr(rng.randrange(1, 0xD800)) for _ in range(50)) for _ in range(10)]
            for said in garbage:
                await socket.connection.send(said)
            await socket.until_ended(stream)
        assert [reply["error"]["code"] for reply in socket.replies] == ["invalid_request"] * len(garbage)
        assert socket.reading(stream).hashes

    live(server, test)


@pytest.mark.parametrize("size", [4 * MIB + 1, 17 * MIB])
def test_a_message_that_is_too_big_is_answered_with_1009(server: Cluster, size: int) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with socket_to(server) as socket:
            stream = await socket.start(**LONG)
            await socket.connection.send("x" * size)
            assert await closed(socket) == 1009
        reading = socket.reading(stream)
        assert (await follow(client, stream, reading)).hashes

    live(server, test)


@pytest.mark.parametrize("path", ["/v1/ws", "/v1/other"])
def test_other_origins_and_paths_are_refused_before_they_are_accepted(server: Cluster, path: str) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        address = server.base_url.replace("http", "ws", 1)
        origin = "https://evil.example" if path == "/v1/ws" else None
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{address}{path}", origin=origin)  # type: ignore[arg-type]
        assert refused.value.response.status_code in ((403,) if origin else (403, 404))
        async with socket_to(server, origin=server.base_url) as socket:
            await socket.say("ping")
            assert await socket.hear() == {"type": "pong"}

    live(server, test)


def test_a_socket_that_is_killed_is_resumed_elsewhere_with_one_hash(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        expected = (await client.post("/v1/streams", json={**LONG, "stream": False})).json()["text_sha256"]
        async with socket_to(server) as socket:
            stream, again = [await socket.start(**LONG) for _ in range(2)]
            await socket.until_tokens(stream, 40)
            socket.connection.transport.abort()
        over_sse = await follow(client, stream, socket.reading(stream))
        assert over_sse.hashes == expected
        async with socket_to(server) as second:
            second.frames = socket.frames
            await second.say("resume", stream=again, after=socket.frames[again][-1]["cursor"], window=50)
            await second.until_tokens(again, 80)
            await second.say("ack", stream=again, cursor="80")
            await second.say("resume", stream=stream, after=socket.frames[stream][-1]["cursor"])
            while second.frames[again][-1]["type"] != "end":
                message = await second.hear()
                if message["stream"] == again:
                    await second.say("ack", stream=again, cursor=message["cursor"])
        assert second.reading(again).hashes == expected
        assert second.replies == []

    live(server, test)


def test_cancel_ends_a_stream_now_on_any_socket(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with socket_to(server) as socket, socket_to(server) as other:
            stream = await socket.start(**{**LONG, "model": SINGLE})
            waiting = await socket.start(**{**LONG, "model": SINGLE, "max_tokens": 3})
            await other.say("cancel", stream=stream)
            await socket.until_ended(stream, waiting)
            [end] = socket.frames[stream][-1]["choices"]
            assert end["finish_reason"] == "cancelled" and socket.tokens(stream) < 290
            assert other.replies == []

    live(server, test)


def test_streams_are_stopped_updated_and_steered_while_they_run(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with socket_to(server) as socket, socket_to(server) as other:
            stopped, updated, steered = [await socket.start(**{**LONG, "max_tokens": 1000}) for _ in range(3)]
            await socket.until_tokens(steered, 10)
            await other.say("stop", stream=stopped)
            await other.say("update", stream=updated, stop=["e", " "])
            await other.say("steer", stream=steered, text=" And then")
            while not any(frame.get("steered") for frame in socket.frames[steered]):
                await socket.hear()
            await socket.until_ended(stopped, updated)
            tokens = socket.tokens(steered)
            await socket.until_tokens(steered, tokens + 20)
            await socket.say("stop", stream=steered)
            await socket.until_ended(steered)
            assert other.replies == [] and socket.replies == []
        for stream in (stopped, updated, steered):
            assert socket.frames[stream][-1]["choices"][0]["finish_reason"] == "stop"
            assert socket.reading(stream).hashes
        assert socket.frames[updated][-1]["choices"][0]["stop_reason"] in ("e", " ")
        put_in = [frame["text"] for frame in socket.frames[steered] if frame.get("steered")]
        assert "".join(put_in).endswith(" And then")
        again = await follow(client, steered, Reading())
        assert again.hashes == socket.reading(steered).hashes

    live(server, test)


def test_a_detached_stream_is_named_and_left_alone(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with socket_to(server) as socket:
            stream = await socket.start(**LONG, detach=True)
            await socket.say("ping")
            assert (await socket.hear())["type"] == "pong"
            assert len(socket.frames[stream]) == 1
        assert (await follow(client, stream, Reading())).hashes

    live(server, test)


def test_a_socket_that_goes_away_frees_its_place(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        for abrupt in (True, False):
            async with socket_to(server) as socket:
                await socket.start(**{**LONG, "model": SINGLE, "on_disconnect": "cancel", "max_tokens": 1000})
                if abrupt:
                    socket.connection.transport.abort()
            async with asyncio.timeout(5):
                await place_is_free(server)

    live(server, test)


def test_a_process_that_drains_says_so_and_its_streams_are_read_on_elsewhere(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)  # a new deployment may replace a store in memory, and forget with it
    config = integration_config(embedded_too=False)
    config["applications"][0]["args"]["streams"].update(backend="redis", redis_url=redis.url)
    cluster = Cluster(config)
    try:
        redis.start()
        cluster.start()
        live(cluster, lambda client: through_a_redeployment(cluster, client))
    finally:
        cluster.stop()
        redis.kill()


async def through_a_redeployment(cluster: Cluster, client: httpx.AsyncClient) -> None:
    """All ingress processes are replaced, one by one, while sockets are open: with streams, and idle ones."""
    fields = {**LONG, "max_tokens": 1500}
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(socket_to(cluster)) for _ in range(6)]
        streams = [
            await socket.start(**{**fields, "seed": 1 + at % 2}) for at, socket in enumerate(sockets[:4])
        ]
        args = {**cluster.config["applications"][0]["args"], "limits": {"max_prompt_tokens": 1000}}
        changed = {**cluster.config, "applications": [{**cluster.config["applications"][0], "args": args}]}
        deploy = await stack.enter_async_context(driver(cluster, "redeploy"))
        await deploy(changed)
        codes = await asyncio.gather(*(closed(socket, 120) for socket in sockets))
    assert codes == [1012] * len(sockets)
    readings = [
        await follow(client, stream, socket.reading(stream))
        for socket, stream in zip(sockets, streams, strict=False)
    ]
    hashes = [reading.hashes for reading in readings]
    assert hashes[0] == hashes[2] != hashes[1] == hashes[3]


@pytest.fixture(scope="module")
def default_server() -> Iterator[Cluster]:
    """A server in Serve's default mode: a Python proxy, which cancels nothing when a WebSocket goes away."""
    config = integration_config()
    args = config["applications"][0]["args"]
    args["models"] = [model for model in args["models"] if model["name"] in (SIMULATED, SINGLE)]
    args["ingress"] = {"replicas": 1, "allowed_origins": ["https://app.example"]}
    del config["controller_options"]
    cluster = Cluster(config)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_in_the_default_mode_a_socket_that_goes_away_frees_its_place(default_server: Cluster) -> None:
    test_a_socket_that_goes_away_frees_its_place(default_server)


def test_in_the_default_mode_the_rest_is_the_same(default_server: Cluster) -> None:
    test_a_socket_that_is_killed_is_resumed_elsewhere_with_one_hash(default_server)
    test_a_shut_window_pauses_the_generator_and_an_ack_lets_it_go_on(default_server)
    test_a_message_that_is_too_big_is_answered_with_1009(default_server, 4 * MIB + 1)
    test_other_origins_and_paths_are_refused_before_they_are_accepted(default_server, "/v1/ws")
    test_garbage_is_answered_and_the_streams_go_on(default_server)


def test_a_listed_origin_is_let_in(default_server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with socket_to(default_server, origin="https://app.example") as socket:
            await socket.say("ping")
            assert await socket.hear() == {"type": "pong"}

    live(default_server, test)
