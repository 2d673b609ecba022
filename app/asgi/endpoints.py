"""The native endpoints: streams, models, health."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.asgi import openapi
from app.asgi.responder import Responder
from app.dialects import native
from app.dialects.openai import model_list, model_object
from app.errors import GeneratorUnavailable
from app.schema.native import StreamBody
from app.service import GenerationService
from app.wire.sse import NativeSseEncoder


class StreamEndpoints:
    """`POST /v1/streams`."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self.router = APIRouter(tags=["Streams"])
        self.router.add_api_route("/v1/streams", self.create, methods=["POST"], **openapi.CREATE_STREAM)

    async def create(self, request: Request) -> Response:
        """Starts a stream and answers with its frames as they come, or with their fold."""
        body = await self._responder.read(request, StreamBody)
        stream = await self._responder.start(body)
        if stream.request.stream:
            return self._responder.streamed(stream, NativeSseEncoder(stream.id))
        return await self._responder.folded(stream, native.Fold(), request)


class ModelEndpoints:
    """`GET /v1/models` and `GET /v1/models/{id}`, in the shape of the OpenAI API. Names may hold slashes."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        self.router = APIRouter(tags=["Models"])
        self.router.add_api_route("/v1/models", self.index, methods=["GET"], **openapi.LIST_MODELS)
        self.router.add_api_route("/v1/models/{id:path}", self.show, methods=["GET"], **openapi.GET_MODEL)

    async def index(self) -> Response:
        """The models that streams can be asked of."""
        return JSONResponse(model_list(self._service.cards()))

    async def show(self, id: str) -> Response:
        """One model."""
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
