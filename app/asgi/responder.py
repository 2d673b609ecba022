"""What the streaming endpoints of both dialects share: from a request's bytes to a stream, from a stream to a response."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import msgspec
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from app.asgi.request_body import read_json
from app.asgi.stream_response import StreamResponse, disconnected
from app.schema.frames import Frame
from app.schema.requests import GenerationRequest
from app.service import GenerationService
from app.settings import LimitsSettings
from app.streams.reader import Reader
from app.streams.stream import Stream
from app.validation import parse_body
from app.wire.encoder import Encoder

# Nobody reads the answer to a client that has gone; the status is what proxies log for it.
_CLIENT_GONE = 499


class RequestBody(Protocol):
    """A validated body of any dialect."""

    def to_request(self, limits: LimitsSettings, default_model: str | None) -> GenerationRequest: ...


class Fold(Protocol):
    """Puts the frames of a stream together into one answer. `add` raises the `ServiceError` of an error frame."""

    def add(self, frame: Frame) -> None: ...

    def result(self) -> dict[str, Any]: ...


BodyModel = TypeVar("BodyModel", bound=BaseModel)


class Responder:
    """Reads bodies, starts streams and answers with them, under the service's settings."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        self._settings = service.settings
        models = service.settings.models
        self._default_model = models[0].name if len(models) == 1 else None

    async def read(self, http: Request, body_type: type[BodyModel]) -> BodyModel:
        """The validated body. Raises the `ServiceError` that says what is wrong with it."""
        limits = self._settings.limits
        raw = await read_json(http, max_bytes=limits.max_body_bytes, timeout_s=limits.reader_stall_timeout_s)
        return parse_body(body_type, raw)

    async def start(self, body: RequestBody) -> Stream:
        """Starts the stream that `body` asks for. Raises the `ServiceError` that prevents it."""
        return await self._service.start(body.to_request(self._settings.limits, self._default_model))

    def streamed(self, stream: Stream, encoder: Encoder) -> Response:
        """The stream as it comes."""
        return StreamResponse(
            stream.reader(),
            encoder,
            heartbeat_s=self._settings.streams.heartbeat_s,
            stall_timeout_s=self._settings.limits.reader_stall_timeout_s,
        )

    async def folded(self, stream: Stream, fold: Fold, http: Request) -> Response:
        """The whole stream as one JSON. Raises the `ServiceError` of its error frame."""
        result = await _fold(stream.reader(), fold, http.receive)
        if result is None:
            return Response(status_code=_CLIENT_GONE)
        headers = {"x-stream-id": stream.id}
        return Response(msgspec.json.encode(result), headers=headers, media_type="application/json")


async def _fold(reader: Reader, fold: Fold, receive: Receive) -> dict[str, Any] | None:
    """The fold's result, or None if the client went away first. The reader is closed in any case."""
    with reader:
        folding = asyncio.ensure_future(_add_all(reader, fold))
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait((folding, leaving), return_when=asyncio.FIRST_COMPLETED)
            return folding.result() if folding.done() else None
        finally:
            folding.cancel()
            leaving.cancel()
            await asyncio.gather(folding, leaving, return_exceptions=True)


async def _add_all(reader: Reader, fold: Fold) -> dict[str, Any]:
    async with aclosing(reader.frames()) as frames:
        async for frame in frames:
            fold.add(frame)
    return fold.result()
