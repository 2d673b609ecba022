"""The server's end of one response, whose socket may be full, broken or gone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

Message = dict[str, Any]


class Socket:
    """The server's end of ASGI for one request. `full` makes `send` wait for `drain`; `gone` makes `receive` return."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.times: list[float] = []
        self.full = False
        self.failure: Exception | None = None
        self._drained = asyncio.Event()
        self.gone = asyncio.Event()

    async def send(self, message: Any) -> None:
        if self.full:
            self._drained.clear()
            await self._drained.wait()
        if self.failure is not None:
            raise self.failure
        self.messages.append(message)
        self.times.append(asyncio.get_running_loop().time())

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def drain(self) -> None:
        self.full = False
        self._drained.set()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.messages[1:]]

    @property
    def closed(self) -> bool:
        return self.messages[-1].get("more_body") is False

    def frames(self) -> list[list[dict[str, Any]]]:
        """The frames of each write."""
        return [
            [json.loads(line[6:]) for line in body.split(b"\n") if line[:6] == b"data: "]
            for body in self.bodies
        ]
