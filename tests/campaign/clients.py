"""A client of each protocol, which comes back when its connection breaks if the protocol lets it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import grpc
import httpx
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from app.proto import generation_pb2 as pb
from app.proto.generation_pb2_grpc import GenerationStub
from streaming_inference import Client, NotFound
from tests.campaign.plan import Call, Edit
from tests.campaign.record import TERMINAL, Frame, Record
from tests.cases.grpc_requests import grpc_request

PATIENCE_S = 240.0
PAUSE_S = 0.2
REST_S = 3.0
BUSY = (429, 502, 503)
"""Answers that are gone later."""
NO_SERVER = (500, "Internal Server Error")
"""HAProxy's answer then."""
EDIT = "edit"
_BROKEN = (httpx.TransportError, WebSocketException, grpc.aio.AioRpcError, OSError)


class Busy(Exception):
    """The server can't answer now."""


class Forgotten(Exception):
    """The server does not know the stream any more."""


class Clients:
    """`base_url` and `grpc_address` are those of the server. `forgets`: its stream store loses what it had when it dies."""

    def __init__(self, base_url: str, grpc_address: str, *, forgets: bool = False) -> None:
        self._base_url = base_url
        self._sockets = base_url.replace("http", "ws", 1) + "/v1/ws"
        self._grpc_address = grpc_address
        self._forgets = forgets
        limits = httpx.Limits(max_connections=256)
        self._http = httpx.AsyncClient(base_url=base_url, timeout=60, limits=limits)
        self._library = Client(base_url)

    async def read(self, call: Call, fields: dict[str, Any]) -> Record:
        """The stream that `fields` ask for, from its start to its end. Raises `TimeoutError` after `PATIENCE_S`."""
        record, key = Record(), secrets.token_hex(16)
        leaves_after, rests_after = list(call.leaves_after), call.rests_after
        async with asyncio.timeout(PATIENCE_S):
            while not (record.ended or record.cut):
                record.connect()
                try:
                    async with aclosing(self._frames(call, fields, record, key)) as frames:
                        async for frame in frames:
                            record.take(frame)
                            await asyncio.sleep(call.delay_s)
                            if frame["type"] in TERMINAL:
                                continue  # nothing may follow
                            if rests_after is not None and record.tokens >= rests_after:
                                rests_after = None
                                await asyncio.sleep(REST_S)
                            if leaves_after and record.tokens >= leaves_after[0]:
                                leaves_after.pop(0)
                                break
                except (*_BROKEN, Busy):
                    await asyncio.sleep(PAUSE_S)
                except (Forgotten, NotFound):
                    record.cut = self._forgets
                    if not record.cut:
                        raise
                record.cut |= call.protocol == "chat" and bool(record.frames) and not record.ended
        return record

    def _frames(
        self, call: Call, fields: dict[str, Any], record: Record, key: str
    ) -> AsyncGenerator[Frame, None]:
        if call.protocol == "websocket":
            return self._websocket(fields, record, call.edit)
        if call.protocol == "chat":
            return self._completions(fields)
        ways = {"sse": self._sse, "library": self._client_library, "grpc": self._grpc}
        return ways[call.protocol](fields, record, key)

    async def close(self) -> None:
        await self._http.aclose()
        await self._library.aclose()

    async def _sse(self, fields: dict[str, Any], record: Record, key: str) -> AsyncGenerator[Frame, None]:
        if record.stream is None:
            request = self._http.stream(
                "POST",
                "/v1/streams",
                json={**fields, "on_disconnect": "grace"},
                headers={"idempotency-key": key},
            )
        else:
            headers = {"last-event-id": f"{record.stream}:{record.cursor}"}
            request = self._http.stream("GET", f"/v1/streams/{record.stream}/events", headers=headers)
        async with request as response:
            await _check(response)
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    async def _client_library(
        self, fields: dict[str, Any], record: Record, key: str
    ) -> AsyncGenerator[Frame, None]:
        """One stream of the library over all connections, but for the client's own leaving."""
        if record.stream is None:
            stream = self._library.generate(idempotency_key=key, on_exit="leave", **fields)
        else:
            stream = self._library.resume(record.stream, record.cursor, on_exit="leave")
        async with stream:
            async for frame in stream:
                yield msgspec.to_builtins(frame)

    async def _websocket(
        self, fields: dict[str, Any], record: Record, edit: Edit | None
    ) -> AsyncGenerator[Frame, None]:
        message: dict[str, Any] = {"type": "generate", "ref": "r", **fields, "on_disconnect": "grace"}
        if record.stream is not None:
            message = {"type": "resume", "stream": record.stream, "after": record.cursor}
        elif edit is not None:
            message["return_token_ids"] = True
        async with AsyncExitStack() as stack:
            socket = await stack.enter_async_context(connect(self._sockets))
            await socket.send(json.dumps(message))
            async for text in socket:
                frame = json.loads(text)
                if frame.get("ref") == EDIT:
                    continue  # it came too late, or the store is away
                if "cursor" not in frame:
                    raise _refusal(frame["error"])
                yield frame
                if frame["type"] in TERMINAL:
                    return
                if edit is not None and not record.edited and record.tokens >= edit.after:
                    record.edited = True
                    other = stack.enter_async_context(connect(self._sockets)) if edit.elsewhere else None
                    await (await other if other else socket).send(_edit_message(edit, record))

    async def _grpc(self, fields: dict[str, Any], record: Record, key: str) -> AsyncGenerator[Frame, None]:
        async with grpc.aio.insecure_channel(self._grpc_address) as channel:
            stub: Any = GenerationStub(channel)
            if record.stream is None:
                messages = stub.Generate(grpc_request(fields), metadata=[("idempotency-key", key)])
            else:
                messages = stub.Resume(pb.ResumeRequest(stream=record.stream, after=record.cursor))
            try:
                async for message in messages:
                    yield _frame_of(message)
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    raise Forgotten from error
                raise

    async def _completions(self, fields: dict[str, Any]) -> AsyncGenerator[Frame, None]:
        """`POST /v1/completions` as frames. Its chunks have no cursors: those of the deltas here count characters."""
        usage: dict[str, int] | None = None
        body = {**fields, "stream": True, "stream_options": {"include_usage": True}}
        body.pop("logprobs", None)
        characters = [0] * fields["n"]
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            await _check(response)
            yield {"type": "start", "cursor": "0", "stream": response.headers["x-stream-id"]}
            async for line in response.aiter_lines():
                if line == "data: [DONE]" or not line.startswith("data: "):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    yield {"type": "error", "error": chunk["error"]}
                    return
                for choice in chunk["choices"]:
                    index, text = choice["index"], choice["text"]
                    if text:
                        characters[index] += len(text)
                        cursor = ".".join(map(str, characters))
                        yield {
                            "type": "delta",
                            "cursor": cursor,
                            "index": index,
                            "text": text,
                            "tokens": len(text),
                        }
                usage = chunk.get("usage") or usage
            if usage is not None:
                yield {"type": "end", "usage": usage}


def _frame_of(message: pb.Frame) -> Frame:
    kind = message.WhichOneof("frame")
    frame: Frame = {"type": kind, "cursor": message.cursor}
    if kind == "start":
        frame["stream"] = message.start.stream
    elif kind == "delta":
        frame |= {"index": message.delta.index, "text": message.delta.text, "tokens": message.delta.tokens}
    elif kind == "end":
        frame["text_sha256"] = list(message.end.text_sha256)
    else:
        frame["error"] = str(message.error)
    return frame


def _edit_message(edit: Edit, record: Record) -> str:
    added: dict[str, dict[str, Any]] = {
        "steer": {"text": edit.text},
        "update": {"stop": [edit.text]},
        "stop": {},
    }
    return json.dumps({"type": edit.kind, "ref": EDIT, "stream": record.stream, **added[edit.kind]})


def _refusal(error: dict[str, Any]) -> Exception:
    if error["code"] == "stream_not_found":
        return Forgotten()
    return Busy() if error["retryable"] else AssertionError(error)


async def _check(response: httpx.Response) -> None:
    if response.status_code != 200:
        said = (await response.aread()).decode()
        if response.status_code in BUSY or (response.status_code, said.strip()) == NO_SERVER:
            raise Busy(said)
        if response.status_code == 404:
            raise Forgotten(said)
        raise AssertionError((response.status_code, said))
