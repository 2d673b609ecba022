"""The native endpoints: streams, models, health."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.asgi import openapi
from app.asgi.responder import Responder
from app.dialects import native
from app.dialects.openai import model_list, model_object
from app.errors import GeneratorUnavailable, InvalidCursor, InvalidRequest
from app.schema.native import StreamBody
from app.service import GenerationService
from app.streams.cursor import parse_event_id
from app.streams.status import StreamStatus

_LAST_EVENT_ID = "Last-Event-ID"


class StreamEndpoints:
    """`/v1/streams`: start, read, look at, cancel. A stream of another caller is answered like one that never was."""

    def __init__(self, service: GenerationService, responder: Responder) -> None:
        self._service = service
        self._responder = responder
        self.router = APIRouter(tags=["Streams"])
        add = self.router.add_api_route
        add("/v1/streams", self.create, methods=["POST"], **openapi.CREATE_STREAM)
        add("/v1/streams/{id}/events", self.events, methods=["GET"], **openapi.READ_STREAM)
        add("/v1/streams/{id}", self.show, methods=["GET"], **openapi.GET_STREAM)
        add("/v1/streams/{id}", self.cancel, methods=["DELETE"], **openapi.CANCEL_STREAM)

    async def create(self, request: Request) -> Response:
        """Starts a stream and answers with its frames as they come, with their fold, or with its name only.

        With `Last-Event-ID` it goes on with that stream instead, and the body is not looked at.
        """
        event_id = request.headers.get(_LAST_EVENT_ID)
        if event_id:
            return await self._resumed(request, event_id)
        body = await self._responder.read(request, StreamBody)
        stream = await self._responder.start(request, body)
        if body.detach:
            return _detached(stream.id, request)
        if body.stream:
            return await self._responder.streamed_native(stream)
        return await self._responder.folded(stream, native.Fold(), request)

    async def events(self, request: Request, id: str) -> Response:
        """The frames of a stream from its start or from behind a cursor, live to the end.

        `Last-Event-ID` is what an EventSource repeats its request with, so it goes before an `after` in the address.
        """
        after = request.query_params.get("after")
        event_id = request.headers.get(_LAST_EVENT_ID)
        if not event_id:
            return await self._responder.resumed(request, id, after)
        if parse_event_id(event_id)[0] != id:
            raise InvalidRequest("Last-Event-ID is of another stream.", param=_LAST_EVENT_ID)
        return await self._resumed(request, event_id, bare=after is None)

    async def show(self, request: Request, id: str) -> Response:
        """What is known of a stream."""
        return _status(await self._service.status(id, self._service.owner_of(request.headers)))

    async def cancel(self, request: Request, id: str) -> Response:
        """Ends a stream now. Answers when it has ended, and the same again later."""
        return _status(await self._service.cancel(id, self._service.owner_of(request.headers)))

    async def _resumed(self, request: Request, event_id: str, *, bare: bool = False) -> Response:
        stream_id, cursor = parse_event_id(event_id)
        try:
            return await self._responder.resumed(request, stream_id, cursor, bare=bare)
        except InvalidCursor as error:
            raise InvalidCursor(error.message, param=_LAST_EVENT_ID) from None


class ModelEndpoints:
    """`GET /v1/models` and `GET /v1/models/{id}`, in the shape of the OpenAI API. Names may hold slashes."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        self.router = APIRouter(tags=["Models"])
        self.router.add_api_route("/v1/models", self.index, methods=["GET"], **openapi.LIST_MODELS)
        self.router.add_api_route("/v1/models/{id:path}", self.show, methods=["GET"], **openapi.GET_MODEL)

    async def index(self, request: Request) -> Response:
        """The models that streams can be asked of."""
        self._service.owner_of(request.headers)
        return JSONResponse(model_list(self._service.cards()))

    async def show(self, request: Request, id: str) -> Response:
        """One model."""
        self._service.owner_of(request.headers)
        return JSONResponse(model_object(self._service.card(id)))


class HealthEndpoint:
    """`GET /health`: 200 when a stream could start, else 503."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        self.router = APIRouter(tags=["Health"])
        self.router.add_api_route("/health", self.health, methods=["GET"], **openapi.HEALTH)

    async def health(self) -> Response:
        """Whether a stream could start now."""
        if not self._service.ready():
            raise GeneratorUnavailable("No stream can start at the moment.")
        return JSONResponse({"status": "ok"})


def _status(status: StreamStatus) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(status), headers=headers, media_type="application/json")


def _detached(stream_id: str, request: Request) -> Response:
    location = f"{request.scope.get('root_path', '')}/v1/streams/{stream_id}"
    headers = {"location": location, "x-stream-id": stream_id}
    return JSONResponse({"stream": stream_id}, status_code=202, headers=headers)
