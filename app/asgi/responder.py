"""What the streaming endpoints of both dialects share: from a request's bytes to a stream, from a stream to a response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol, TypeVar

import msgspec
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from app.admission import HeldBodies
from app.asgi.json_response import JSONResponse
from app.asgi.parameters import LAST_EVENT_ID
from app.asgi.request_body import read_json
from app.asgi.stream_response import StreamResponse, disconnected, head_of
from app.errors import InvalidCursor, InvalidRequest, NotFound
from app.idempotency import HEADER as IDEMPOTENCY_KEY
from app.idempotency import checked_key, idempotency_of
from app.schema.frames import Frame
from app.schema.requests import GenerationRequest
from app.service import GenerationService
from app.settings import LimitsSettings
from app.streams.cursor import EventId
from app.streams.frame_source import FrameSource
from app.streams.joint_reader import JointReader
from app.streams.reader import Reader
from app.streams.stream import Stream
from app.validation import parse_body
from app.wire.encoder import Encoder
from app.wire.sse import NativeSseEncoder

# A client that has gone reads no answer; the status is what proxies log for it.
_CLIENT_GONE = 499
_NOTHING_MORE = 204


class RequestBody(Protocol):
    """A validated body of any dialect."""

    @property
    def model_fields_set(self) -> set[str]:
        """The fields that the client has given."""
        ...

    def to_request(self, limits: LimitsSettings, default_model: str | None) -> GenerationRequest: ...


class PromptsBody(RequestBody, Protocol):
    """A validated body with a prompt or several."""

    @property
    def echo(self) -> bool:
        """Whether each choice begins with its prompt."""
        ...

    def to_requests(self, limits: LimitsSettings, default_model: str | None) -> list[GenerationRequest]: ...


class Fold(Protocol):
    """Puts the frames of a stream together into one answer. `add` raises the `ServiceError` of an error frame."""

    def add(self, frame: Frame) -> None: ...

    def result(self) -> Mapping[str, Any]: ...


BodyModel = TypeVar("BodyModel", bound=BaseModel)


class Responder:
    """Reads bodies, starts and finds streams, and answers with them, under the service's settings."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        self._settings = service.settings
        self.reasoning_field = service.settings.ingress.reasoning_field
        self._held_bodies = HeldBodies(service.settings.limits.max_held_body_bytes)

    @asynccontextmanager
    async def body(self, http: Request, body_type: type[BodyModel]) -> AsyncIterator[BodyModel]:
        """The validated body. It counts among those that the process holds until the context is left.

        Raises the `ServiceError` that says what is wrong with it, or with the caller's key, and `Overloaded`.
        """
        self._service.owner_of(http.headers)  # who may not call is refused before the body is read
        limits = self._settings.limits
        with self._held_bodies.permit() as count:
            raw = await read_json(
                http,
                max_bytes=limits.max_body_bytes,
                timeout_s=limits.reader_stall_timeout_s,
                count=count,
            )
            yield parse_body(body_type, raw)

    async def start(self, http: Request, body: RequestBody, idempotency_key: str | None) -> Stream:
        """The stream that `body` asks for: a new one, or the one that the caller's `Idempotency-Key` stands for.

        Raises the `ServiceError` that prevents it.
        """
        key = checked_key(idempotency_key)
        request = body.to_request(self._settings.limits, self._settings.default_model)
        owner = self._service.owner_of(http.headers)
        if key is None:
            return await self._service.start(request, owner)
        if request.on_disconnect == "cancel" and "on_disconnect" not in body.model_fields_set:
            # Whoever sends a key means to come back when the connection breaks.
            request = msgspec.structs.replace(request, on_disconnect="grace")
        return await self._service.start(request, owner, idempotency_of(key, http.url.path, request))

    async def start_all(
        self, http: Request, body: PromptsBody, idempotency_key: str | None
    ) -> tuple[list[Stream], list[str]]:
        """The streams that `body` asks for, one for each prompt, all or none, and the texts that their choices begin with.

        Raises the `ServiceError` that prevents one of them.
        """
        requests = body.to_requests(self._settings.limits, self._settings.default_model)
        openings = [await self._prompt_text(request) for request in requests] if body.echo else []
        if len(requests) == 1:
            return [await self.start(http, body, idempotency_key)], openings
        if idempotency_key is not None:
            raise InvalidRequest(
                f"{IDEMPOTENCY_KEY} is for one prompt, and there are {len(requests)}.", param=IDEMPOTENCY_KEY
            )
        return await self._service.start_all(requests, self._service.owner_of(http.headers)), openings

    async def _prompt_text(self, request: GenerationRequest) -> str:
        if request.prompt is not None:
            return request.prompt
        return await self._service.decode(request.model, request.prompt_token_ids or ())

    async def refuse_embeddings(self, request: Request) -> Response:
        """Clients that find chats here look for embeddings at the same place. Raises `NotFound`."""
        self._service.owner_of(request.headers)
        names = ", ".join(card.name for card in self._service.cards()) or "none at the moment"
        raise NotFound(
            f"This server makes no embeddings. Its models generate text ({names}): use /v1/chat/completions, /v1/completions or "
            "/v1/streams."
        )

    async def read(self, streams: Sequence[Stream], openings: Sequence[str] = ()) -> FrameSource:
        """What `start` or `start_all` have given, from its start. Raises what `GenerationService.read` raises."""
        readers: list[Reader] = []
        try:
            for stream in streams:
                readers.append(await self._service.read(stream))
        except BaseException:
            for reader in readers:
                reader.close()
            raise
        return readers[0] if len(readers) == 1 and not openings else JointReader(readers, openings)

    def streamed(self, source: FrameSource, encoder: Encoder) -> Response:
        """What `read` has given, as it comes."""
        return StreamResponse(
            source,
            encoder,
            heartbeat_s=self._settings.streams.heartbeat_s,
            reader_stall_timeout_s=self._settings.limits.reader_stall_timeout_s,
        )

    def streamed_native(self, source: FrameSource) -> Response:
        """The same as native events."""
        return self.streamed(source, NativeSseEncoder(source.stream_id))

    async def resumed(self, http: Request, stream_id: str, after: str | None) -> Response:
        """The stream after the cursor `after`, as native events. Raises what `GenerationService.resume` raises.

        HEAD gets the head of that answer. It is no reader, whose leaving could end the stream.
        """
        owner = self._service.owner_of(http.headers)
        if http.method == "HEAD":
            await self._service.check_reached(stream_id, after or "0", owner)
            return Response(headers=head_of(NativeSseEncoder.media_type, stream_id))
        reader = await self._service.resume(stream_id, after, owner)
        return self.streamed_native(reader)

    async def returned(self, http: Request, event_id: EventId) -> Response:
        """The stream after an event. After the terminal one nothing comes: 204, which alone stops an EventSource.

        Raises what `GenerationService.resume` raises.
        """
        try:
            if not event_id.is_end:
                return await self.resumed(http, event_id.stream, event_id.cursor)
            owner = self._service.owner_of(http.headers)
            await self._service.check_reached(event_id.stream, event_id.cursor, owner)
        except InvalidCursor as error:
            raise InvalidCursor(error.message, param=LAST_EVENT_ID) from None
        return Response(status_code=_NOTHING_MORE)

    async def folded(self, source: FrameSource, fold: Fold, http: Request) -> Response:
        """The whole of it as one JSON. Raises the `ServiceError` of its error frame, and `Draining`."""
        result = await _fold(source, fold, http.receive)
        if result is None:
            return Response(status_code=_CLIENT_GONE)
        return JSONResponse(result, headers={"x-stream-id": source.stream_id})


async def _fold(reader: FrameSource, fold: Fold, receive: Receive) -> Mapping[str, Any] | None:
    """The fold's result, or None if the client went away first. The reader is closed in any case."""

    async def fold_all() -> Mapping[str, Any]:
        async with aclosing(reader.frames()) as frames:
            async for frame in frames:
                fold.add(frame)
        return fold.result()

    with reader:
        folding = asyncio.ensure_future(fold_all())
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait((folding, leaving), return_when=asyncio.FIRST_COMPLETED)
            return folding.result() if folding.done() else None
        finally:
            folding.cancel()
            leaving.cancel()
            await asyncio.gather(folding, leaving, return_exceptions=True)
