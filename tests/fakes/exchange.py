"""One HTTP request to an ASGI application, live, as its server sees it: the socket may fill up and the client may leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message


class Exchange:
    """Starts at once. The socket takes `takes` bytes of the body and then nothing more; None is all of them.

    `body` is what the client has; `complete` is true after a clean end of body, `cut` after an end that is none.
    """

    def __init__(
        self,
        app: ASGIApp,
        method: str,
        target: str,
        *,
        headers: dict[str, str] | None = None,
        json_body: object = None,
        takes: int | None = None,
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self._takes = takes
        self._gone = asyncio.Event()
        content = b"" if json_body is None else json.dumps(json_body).encode()
        self._requests: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
        self._task = asyncio.ensure_future(
            app(_scope(method, target, headers or {}), self._receive, self._send)
        )

    @property
    def cut(self) -> bool:
        return self._task.done() and not self.complete

    @property
    def frames(self) -> list[dict[str, Any]]:
        """Those of the events that are complete."""
        return frames_of(self.body)

    async def done(self) -> Exchange:
        """Itself, when the response is over."""
        async with asyncio.timeout(10):
            await self._task
        return self

    async def leave(self) -> None:
        """The client goes away."""
        self._gone.set()
        await self.done()

    def json(self) -> Any:
        return json.loads(self.body)

    async def _receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.body += message.get("body", b"")
        if self._takes is not None and len(self.body) > self._takes:
            self.body = self.body[: self._takes]
            await asyncio.Event().wait()
        self.complete = not message.get("more_body", False)


def frames_of(body: bytes) -> list[dict[str, Any]]:
    """The frames of the complete events in `body`, after a check that each event is what the contract says."""
    frames = []
    for event in body.split(b"\n\n")[:-1]:
        if event.startswith(b":"):
            continue
        event_id, data = event.split(b"\n")
        frame = json.loads(data.removeprefix(b"data: "))
        end = ":end" if frame["type"] in ("end", "error") else ""
        assert event_id.startswith(b"id: ") and event_id.endswith(f":{frame['cursor']}{end}".encode())
        frames.append(frame)
    return frames


def _scope(method: str, target: str, headers: dict[str, str]) -> dict[str, Any]:
    address = urlsplit(target)
    given = {"content-type": "application/json", "accept": "text/event-stream", **headers}
    return {
        "type": "http",
        "method": method,
        "path": address.path,
        "query_string": address.query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
    }
