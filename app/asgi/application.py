"""The ASGI application: every route, the errors in one shape, and the documents that describe them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp

from app.asgi import websocket_endpoint
from app.asgi.cross_origin import CrossOrigin
from app.asgi.documentation import render
from app.asgi.endpoints import HealthEndpoint, ModelEndpoints, StreamEndpoints
from app.asgi.error_response import (
    handle_service_error,
    handle_unexpected,
    handle_validation_error,
)
from app.asgi.methods import MethodNotAllowedHandler, with_head
from app.asgi.middleware import RequestBoundary
from app.asgi.openai_endpoints import OpenAIEndpoints
from app.asgi.openapi import Routes
from app.asgi.responder import Responder
from app.asgi.tokenizer_endpoints import TokenizerEndpoints
from app.asgi.websocket_endpoint import WebSocketEndpoint
from app.errors import ServiceError
from app.service import GenerationService


def build_app(service: GenerationService, *, echo_request_id: bool = True) -> Application:
    """The application in front of `service`, with its settings.

    `echo_request_id` False leaves the header `x-request-id` of the responses to a server that writes it (Ray Serve does).
    """
    return Application(service, echo_request_id=echo_request_id)


class Application(FastAPI):
    """FastAPI with this service's routes and errors, which it describes. Its own error shape, telemetry and pages are off."""

    def __init__(self, service: GenerationService, *, echo_request_id: bool) -> None:
        self._routes = Routes()
        super().__init__(
            title="Streaming inference",
            version="1",
            description=(
                "Language models that answer token by token. Native streams are at /v1/streams; the OpenAI dialect is at "
                "/v1/chat/completions and /v1/completions. Every error has the same shape, on every route."
            ),
            openapi_url="/openapi.json",
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            telemetry={"tracing": False, "metrics": False, "logs": False},
            exception_handlers={
                ServiceError: handle_service_error,
                HTTPException: MethodNotAllowedHandler(self._routes),
                RequestValidationError: handle_validation_error,
                Exception: handle_unexpected,
            },
        )
        self._echo_request_id = echo_request_id
        self._allowed_origins = service.settings.ingress.allowed_origins
        responder = Responder(service)
        StreamEndpoints(service, responder).add_to(self._routes)
        OpenAIEndpoints(responder).add_to(self._routes)
        TokenizerEndpoints(service, responder).add_to(self._routes)
        ModelEndpoints(service).add_to(self._routes)
        HealthEndpoint(service).add_to(self._routes)
        self._routes.add_api_route(
            "/v1/embeddings", responder.refuse_embeddings, methods=["POST"], include_in_schema=False
        )
        self._routes.add_api_route(
            "/docs", self.documentation, methods=with_head("GET"), include_in_schema=False
        )
        self.include_router(self._routes)
        self.router.routes.append(WebSocketRoute(websocket_endpoint.PATH, WebSocketEndpoint(service)))

    def build_middleware_stack(self) -> ASGIApp:
        """The framework's layers inside the boundary, which must see what none of them handled."""
        stack = super().build_middleware_stack()
        if self._allowed_origins:
            stack = CrossOrigin(stack, self._allowed_origins)
        return RequestBoundary(stack, echo_request_id=self._echo_request_id)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = self._routes.complete(super().openapi())
        return self.openapi_schema

    async def documentation(self) -> Response:
        """The OpenAPI document as a page to read."""
        return HTMLResponse(render(self.openapi()))
