"""The native endpoints: streams, models, health."""

from __future__ import annotations

from typing import Literal, TypedDict

from fastapi import Request
from starlette.responses import Response

from app.asgi import examples
from app.asgi.json_response import JSONResponse
from app.asgi.openapi import Answer, Routes
from app.asgi.parameters import FINDING, LAST_EVENT_ID, STARTING, After, IdempotencyKey, LastEventId
from app.asgi.responder import Responder
from app.dialects import native
from app.dialects.openai import model_list, model_object
from app.errors import (
    AuthenticationFailed,
    GeneratorUnavailable,
    InvalidCursor,
    InvalidRequest,
    ModelNotFound,
    TooManyReaders,
)
from app.schema.native import StreamBody
from app.schema.openai_answers import Model, ModelList
from app.schema.stream_result import DetachedStream, StreamResult
from app.service import GenerationService
from app.streams.cursor import parse_event_id
from app.streams.status import StreamStatus
from app.wire.sse import NativeSseEncoder


class StreamEndpoints:
    """`/v1/streams`: start, read, look at, cancel. A stream of another caller is answered like one that never was."""

    def __init__(self, service: GenerationService, responder: Responder) -> None:
        self._service = service
        self._responder = responder

    def add_to(self, routes: Routes) -> None:
        events = NativeSseEncoder(examples.STREAM).encode(examples.FRAMES).decode()
        result = examples.folded(native.Fold())
        detached: DetachedStream = {"stream": examples.STREAM}
        routes.add(
            "POST",
            "/v1/streams",
            self.create_stream,
            tag="Streams",
            body=StreamBody,
            answers={
                200: Answer(model=StreamResult, example=result, events=events, headers=["x-stream-id"]),
                202: Answer(
                    "The stream runs; with `detach: true`.",
                    model=DetachedStream,
                    example=detached,
                    headers=["location", "x-stream-id"],
                ),
            },
            errors=STARTING,
        )
        routes.add(
            "GET",
            "/v1/streams/{id}/events",
            self.read_stream,
            tag="Streams",
            answers={
                200: Answer("The events.", events=events, headers=["x-stream-id"]),
                204: Answer("After a terminal event, whose id ends in `:end`: nothing more comes."),
            },
            errors=(InvalidCursor, TooManyReaders, *FINDING),
        )
        status = Answer("The stream as it is now.", model=StreamStatus, example=examples.STATUS)
        routes.add(
            "GET",
            "/v1/streams/{id}",
            self.get_stream,
            tag="Streams",
            answers={200: status},
            errors=FINDING,
        )
        routes.add(
            "DELETE",
            "/v1/streams/{id}",
            self.cancel_stream,
            tag="Streams",
            answers={200: status},
            errors=FINDING,
        )

    async def create_stream(
        self, request: Request, last_event_id: LastEventId = None, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Starts a stream.

        Server-sent events, one frame in each; `stream: false` gives one JSON at the end, `detach: true` the id at once. With
        `Last-Event-ID` no stream is started: the answer is the rest of that one, whatever the body.
        """
        if last_event_id:
            return await self._responder.returned(request, parse_event_id(last_event_id))
        async with self._responder.body(request, StreamBody) as body:
            stream = await self._responder.start(request, body, idempotency_key)
        if body.detach:
            location = f"{request.scope.get('root_path', '')}/v1/streams/{stream.id}"
            headers = {"location": location, "x-stream-id": stream.id}
            return JSONResponse(DetachedStream(stream=stream.id), status_code=202, headers=headers)
        source = await self._responder.read([stream])
        if body.stream:
            return self._responder.streamed_native(source)
        return await self._responder.folded(source, native.Fold(), request)

    async def read_stream(
        self, request: Request, id: str, last_event_id: LastEventId = None, after: After = None
    ) -> Response:
        """Reads a stream.

        Server-sent events for an EventSource, live to the end: from the start, or after the cursor in `Last-Event-ID` or `after`.
        After the last cursor the terminal frame comes; after its id, which ends in `:end`, nothing.
        """
        # An EventSource repeats its request with `Last-Event-ID`, so it goes before an `after` in the address.
        if not last_event_id:
            return await self._responder.resumed(request, id, after)
        event_id = parse_event_id(last_event_id)
        if event_id.stream != id:
            raise InvalidRequest("Last-Event-ID is of another stream.", param=LAST_EVENT_ID)
        return await self._responder.returned(request, event_id)

    async def get_stream(self, request: Request, id: str) -> Response:
        """Shows a stream.

        `state` is `running`, `ended` or `failed`; an ended stream is forgotten at `expires_at`, in Unix seconds.
        """
        return _status(await self._service.status(id, self._service.owner_of(request.headers)))

    async def cancel_stream(self, request: Request, id: str) -> Response:
        """Cancels a stream.

        Answers when the stream has ended. A stream that has ended stays as it is, however often it is cancelled.
        """
        return _status(await self._service.cancel(id, self._service.owner_of(request.headers)))


class ModelEndpoints:
    """`GET /v1/models` and `GET /v1/models/{id}`, in the shape of the OpenAI API. Names may hold slashes."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    def add_to(self, routes: Routes) -> None:
        models = model_list([examples.MODEL])
        routes.add(
            "GET",
            "/v1/models",
            self.list_models,
            tag="Models",
            answers={200: Answer(model=ModelList, example=models)},
            errors=(AuthenticationFailed,),
        )
        routes.add(
            "GET",
            "/v1/models/{id:path}",
            self.get_model,
            tag="Models",
            answers={200: Answer(model=Model, example=models["data"][0])},
            errors=(AuthenticationFailed, ModelNotFound),
        )

    async def list_models(self, request: Request) -> Response:
        """Lists the models.

        Each can be named in the field `model` of a request.
        """
        self._service.owner_of(request.headers)
        return JSONResponse(model_list(self._service.cards()))

    async def get_model(self, request: Request, id: str) -> Response:
        """Describes a model.

        Names may hold slashes.
        """
        self._service.owner_of(request.headers)
        return JSONResponse(model_object(self._service.card(id)))


class Health(TypedDict):
    status: Literal["ok"]


class HealthEndpoint:
    """`GET /health`: 200 when a stream could start, else 503."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    def add_to(self, routes: Routes) -> None:
        healthy: Health = {"status": "ok"}
        routes.add(
            "GET",
            "/health",
            self.health,
            tag="Health",
            answers={200: Answer(model=Health, example=healthy)},
            errors=(GeneratorUnavailable,),
        )

    async def health(self) -> Response:
        """Tells whether a stream could start now."""
        if not self._service.ready():
            raise GeneratorUnavailable("No stream can start at the moment.")
        return JSONResponse(Health(status="ok"))


def _status(status: StreamStatus) -> Response:
    headers = {"cache-control": "no-store"}
    return JSONResponse(status, headers=headers)
