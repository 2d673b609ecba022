"""One WebSocket to an ASGI application, live, as its server sees it: the socket may fill up and the client may leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message

from tests.fakes.clock import settle


class FakeWebSocket:
    """Connects at once. `full` makes `send` wait for `drain`, `failure` makes it raise.

    `status` is that of a handshake which was refused, `close_code` the code that the server closed with.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        path: str = "/v1/ws",
        headers: dict[str, str] | None = None,
        can_refuse: bool = True,
    ) -> None:
        self.accepted = False
        self.status = 0
        self.body = b""
        self.texts: list[str] = []
        self.close_code: int | None = None
        self.reason = ""
        self.full = False
        self.failure: Exception | None = None
        self._drained = asyncio.Event()
        self._incoming: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        given = {"host": "server.example", **(headers or {})}
        scope = {
            "type": "websocket",
            "path": path,
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "extensions": {"websocket.http.response": {}} if can_refuse else {},
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What the client was sent."""
        return [json.loads(text) for text in self.texts]

    def of(self, stream: str) -> list[dict[str, Any]]:
        """What the client was sent of one stream."""
        return [message for message in self.messages if message.get("stream") == stream]

    async def say(self, *messages: object) -> None:
        """The client sends messages: bytes as they are, texts as they are, everything else as JSON."""
        for message in messages:
            if isinstance(message, bytes):
                self._incoming.put_nowait({"type": "websocket.receive", "bytes": message})
            else:
                text = message if isinstance(message, str) else json.dumps(message)
                self._incoming.put_nowait({"type": "websocket.receive", "text": text})
        await settle()

    async def start(self, **fields: Any) -> str:
        """The id of a stream that the client starts."""
        before = len(self.texts)
        await self.say({"type": "generate", "prompt": "hi", "seed": 1, "on_disconnect": "cancel", **fields})
        [frame] = [message for message in self.messages[before:] if message["type"] in ("start", "error")]
        assert frame["type"] == "start", frame
        stream = frame["stream"]
        assert isinstance(stream, str)
        return stream

    async def leave(self) -> None:
        """The client goes away, and the handler reads it. Returns when the handler is through."""
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
        await self.done()

    async def done(self) -> None:
        async with asyncio.timeout(10):
            await self.task

    def break_off(self, error: Exception) -> None:
        """Makes `receive` raise."""
        self._incoming.put_nowait(error)

    def drain(self) -> None:
        self.full = False
        self._drained.set()

    async def _receive(self) -> Message:
        message = await self._incoming.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def _send(self, message: Message) -> None:
        if self.full:
            self._drained.clear()
            await self._drained.wait()
        if self.failure is not None:
            raise self.failure
        assert self.close_code is None and not self.body, message
        kind = message["type"].removeprefix("websocket.")
        assert self.accepted or kind != "send", message
        if kind == "accept":
            self.accepted = True
        elif kind == "send":
            self.texts.append(message["text"])
        elif kind == "http.response.start":
            self.status = message["status"]
        elif kind == "http.response.body":
            self.body = message["body"]
        elif self.accepted:
            self.close_code, self.reason = message["code"], message["reason"]
        else:
            self.status = 403
