"""A caller of each protocol, who reads a stream over one connection. He comes back only where the protocol tells him to.

A break that the protocol does not announce is an exception, and a stream without its ending fails the test.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from app.proto import generation_pb2 as pb
from app.proto.generation_pb2_grpc import GenerationStub
from streaming_inference import Client
from tests.integration.cluster import Cluster
from tests.integration.scenario import read_anyhow
from tests.integration.sse_client import Reading, post

Fields = dict[str, Any]
DRAINING = 1012
"""The code with which a process that drains closes a WebSocket: connect again and resume."""
PAUSE_S = 0.2


@dataclass
class Callers:
    """Callers of one server. `client` is one of its HTTP. Each has a reading in `readings`, by protocol.

    `come_back`: they return after any break, as `docs/reliability.md` says for their protocol.
    """

    server: Cluster
    client: httpx.AsyncClient
    come_back: bool = False
    readings: dict[str, list[Reading]] = field(default_factory=dict)

    def begin(self, protocol: str, fields: Fields) -> asyncio.Task[None]:
        """Starts a stream. The task ends with it, and raises what broke it."""
        ways: dict[str, Callable[[Fields, Reading], Awaitable[None]]] = {
            "sse": self._sse,
            "completions": self._completions,
            "websocket": self._websocket,
            "grpc": self._grpc,
            "library": self._library,
        }
        reading = Reading()
        self.readings.setdefault(protocol, []).append(reading)
        return asyncio.ensure_future(_named(protocol, ways[protocol](fields, reading)))

    @property
    def all(self) -> list[Reading]:
        return [reading for readings in self.readings.values() for reading in readings]

    async def _sse(self, fields: Fields, reading: Reading) -> None:
        await (read_anyhow if self.come_back else post)(self.client, fields, reading)

    async def _completions(self, fields: Fields, reading: Reading) -> None:
        """The chunks as frames. They have no cursors: those of the frames count characters."""
        body = {**fields, "stream": True, "stream_options": {"include_usage": True}}
        text, last, reason = "", "", None
        usage: dict[str, int] = {}
        async with self.client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            reading.connections += 1
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                last = line.removeprefix("data: ")
                chunk: dict[str, Any] = json.loads(last) if last != "[DONE]" else {"choices": []}
                for choice in chunk["choices"]:
                    reason = choice["finish_reason"] or reason
                    if delta := choice["text"]:
                        text += delta
                        frame = {"type": "delta", "index": 0, "cursor": str(len(text)), "text": delta}
                        reading.take("", {**frame, "tokens": len(delta)})
                usage = chunk.get("usage") or usage
        assert (last, reason, usage.get("completion_tokens")) == ("[DONE]", "length", fields["max_tokens"])
        end = {"type": "end", "cursor": str(len(text)), "choices": [{"finish_reason": reason}]}
        usage_of_characters = {"completion_tokens": len(text)}
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        reading.take("", {**end, "usage": usage_of_characters, "text_sha256": [sha256]})

    async def _websocket(self, fields: Fields, reading: Reading) -> None:
        address = f"{self.server.base_url.replace('http', 'ws', 1)}/v1/ws"
        message = {"type": "generate", "ref": "r", **fields}
        while not reading.ended:
            try:
                async with connect(address, open_timeout=60) as socket:
                    reading.connections += 1
                    await socket.send(json.dumps(message))
                    while not reading.ended:
                        frame = json.loads(await socket.recv())
                        if "cursor" not in frame:
                            assert reading.connections > 1 and frame["error"]["retryable"], frame
                            break
                        reading.take(f"{frame['stream']}:{frame['cursor']}", frame)
            except ConnectionClosed as closed:
                assert self.come_back or (closed.rcvd is not None and closed.rcvd.code == DRAINING), closed
            except (WebSocketException, OSError):
                assert reading.connections > 0, "it never had a connection"
            if not reading.ended:
                await asyncio.sleep(PAUSE_S)
            stream, _, cursor = reading.last_event_id.partition(":")
            message = {"type": "resume", "stream": stream, "after": cursor}

    async def _grpc(self, fields: Fields, reading: Reading) -> None:
        async with grpc.aio.insecure_channel(self.server.grpc_address) as channel:
            stub: Any = GenerationStub(channel)
            messages = stub.Generate(pb.GenerateRequest(**fields))
            while True:
                reading.connections += 1
                try:
                    async for message in messages:
                        stream = message.start.stream or reading.stream
                        reading.take(f"{stream}:{message.cursor}", _frame_of(message))
                    assert reading.ended, "the call was ended in the middle of the stream"
                    return
                except grpc.aio.AioRpcError:
                    if not (self.come_back and reading.stream):
                        raise
                    await asyncio.sleep(PAUSE_S)
                stream, _, cursor = reading.last_event_id.partition(":")
                messages = stub.Resume(pb.ResumeRequest(stream=stream, after=cursor))

    async def _library(self, fields: Fields, reading: Reading) -> None:
        async with Client(self.server.base_url) as library, library.generate(**fields) as stream:
            reading.connections = 1  # it does not say how often it returned
            async for frame in stream:
                reading.take("", msgspec.to_builtins(frame))


async def _named(protocol: str, call: Awaitable[None]) -> None:
    """Says in an exception which protocol it is of."""
    try:
        await call
    except BaseException as error:
        error.add_note(f"over {protocol}")
        raise


def _frame_of(message: pb.Frame) -> dict[str, Any]:
    kind = message.WhichOneof("frame")
    frame: dict[str, Any] = {"type": kind, "cursor": message.cursor}
    if kind == "delta":
        return frame | {
            "index": message.delta.index,
            "text": message.delta.text,
            "tokens": message.delta.tokens,
        }
    if kind == "end":
        return frame | {
            "choices": list(message.end.choices),
            "usage": {"completion_tokens": message.end.usage.completion_tokens},
            "text_sha256": list(message.end.text_sha256),
        }
    return frame
