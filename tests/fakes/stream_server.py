"""A server with one stream, as a transport of httpx, whose connections break when the test says so."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.schema.frames import ChoiceEnd, Delta, End, Error, Frame, Start, Timings, Usage
from app.wire.sse import NativeSseEncoder

STREAM = "st_1"


@dataclass(frozen=True)
class Misfortune:
    """What becomes of one request. `error` is raised instead of an answer, or with `after_bytes` in the middle of one.

    `lost`: the server takes the request before the answer is lost.
    """

    error: type[httpx.TransportError] | None = None
    after_bytes: int | None = None
    lost: bool = False
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def refused(status: int, code: str = "overloaded", **headers: str) -> Misfortune:
    body = json.dumps({"error": {"message": "No.", "type": "server_error", "param": None, "code": code}})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Misfortune(status=status, headers=named, body=body.encode())


class FakeStreamServer(httpx.AsyncBaseTransport):
    """Every POST starts the stream of `texts`, a list of tokens for each choice; its frames come in any grouping.

    `misfortunes` befall the next requests, in their order. `hold_after` frames a connection goes silent for good.
    """

    def __init__(
        self, *texts: Sequence[str], ending: Error | None = None, sizes: Sequence[int] = (1,)
    ) -> None:
        self.texts = texts or (["a", "b", "c"],)
        self.ending = ending
        self.misfortunes: deque[Misfortune] = deque()
        self.requests: list[httpx.Request] = []
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.open_connections = 0
        self.hold_after: int | None = None
        self.replaced: dict[int, Frame] = {}
        self._sizes = sizes

    @property
    def asked(self) -> list[str]:
        """Method and address of every request."""
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]

    def body(self, number: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.requests[number].content)
        return found

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        misfortune = self.misfortunes.popleft() if self.misfortunes else Misfortune()
        if misfortune.error is not None and misfortune.after_bytes is None and not misfortune.lost:
            raise misfortune.error("broken", request=request)
        if misfortune.status is not None:
            return httpx.Response(misfortune.status, headers=misfortune.headers, content=misfortune.body)
        response = self._answer(request, misfortune)
        if misfortune.lost:
            await response.aclose()
            raise (misfortune.error or httpx.ReadError)("lost", request=request)
        return response

    def frames(self, after: str | None = None) -> list[Frame]:
        """The stream from its start, or behind a cursor."""
        choices = len(self.texts)
        known = [0] * choices if after in (None, "0") else [int(part) for part in str(after).split(".")]
        frames: list[Frame] = [] if after is not None else [Start("0", STREAM, "m", 1, 7, 2)]
        sizes = 0
        while any(count < len(text) for count, text in zip(known, self.texts, strict=True)):
            for index, text in enumerate(self.texts):
                size = self._sizes[sizes % len(self._sizes)]
                sizes += 1
                taken = text[known[index] : known[index] + size]
                if taken:
                    known[index] += len(taken)
                    frames.append(Delta(".".join(map(str, known)), index, "".join(taken), len(taken)))
        frames.append(self.ending or self._end())
        return [self.replaced.get(number, frame) for number, frame in enumerate(frames)]

    def _end(self) -> End:
        counts = [len(text) for text in self.texts]
        ends = [ChoiceEnd(index, "stop", None) for index in range(len(counts))]
        hashes = [hashlib.sha256("".join(text).encode()).hexdigest() for text in self.texts]
        usage = Usage(2, sum(counts), 2 + sum(counts))
        return End(".".join(map(str, counts)), ends, usage, Timings(1.0, 2.0, 3.0, 4.0), hashes)

    def _answer(self, request: httpx.Request, misfortune: Misfortune) -> httpx.Response:
        path = request.url.path
        if path.endswith("/v1/models"):
            return httpx.Response(200, json={"data": [{"id": "m", "created": 1, "owned_by": "tests"}]})
        if request.method == "POST":
            key = request.headers["idempotency-key"]
            if key not in self.started:
                self.started.append(key)
            if json.loads(request.content).get("detach"):
                return httpx.Response(202, json={"stream": STREAM})
            return self._events(None, misfortune)
        if path.endswith("/events"):
            return self._events(request.url.params.get("after"), misfortune)
        if request.method == "DELETE":
            self.cancelled.append(path.rpartition("/")[2])
        usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
        status = {
            "stream": STREAM,
            "model": "m",
            "created": 1,
            "state": "ended",
            "cursor": "3",
            "usage": usage,
        }
        return httpx.Response(200, json={**status, "expires_at": None, "choices": None, "error": None})

    def _events(self, after: str | None, misfortune: Misfortune) -> httpx.Response:
        headers = {"content-type": "text/event-stream", "x-stream-id": STREAM, **misfortune.headers}
        return httpx.Response(200, headers=headers, stream=_Body(self, self.frames(after), misfortune))


class _Body(httpx.AsyncByteStream):
    def __init__(self, server: FakeStreamServer, frames: Sequence[Frame], misfortune: Misfortune) -> None:
        self._server = server
        self._frames = frames
        self._misfortune = misfortune
        server.open_connections += 1
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        sent = 0
        encoder = NativeSseEncoder(STREAM)
        for number, frame in enumerate(self._frames):
            if number == self._server.hold_after:
                await asyncio.Event().wait()
            chunk = b": ping\n\n" + encoder.encode([frame])
            last = self._misfortune.after_bytes
            if last is not None and sent + len(chunk) >= last:
                yield chunk[: last - sent]
                if self._misfortune.error is not None:
                    raise self._misfortune.error("cut")
                return
            sent += len(chunk)
            yield chunk

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._server.open_connections -= 1
