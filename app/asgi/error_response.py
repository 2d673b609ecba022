"""Errors as HTTP responses: one shape for every status and every route."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.asgi.content_encoding import ACCEPTED
from app.errors import (
    BodyTooLarge,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from app.wire.json_text import json_bytes

_UNAUTHORIZED = 401
_RETRY_AFTER_S = 1
_RETRY_AFTER_STATUSES = frozenset({429, 503})
# The SDKs repeat a request with one of these statuses unless they are told that it can't help.
_RETRIED_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504})

_BY_STATUS: dict[int, tuple[type[ServiceError], str]] = {
    404: (NotFound, "There is nothing at {path}."),
    405: (MethodNotAllowed, "{path} doesn't take {method}."),
    413: (BodyTooLarge, "The body is too large."),
    415: (UnsupportedMediaType, "Send the body as application/json."),
}


def error_response(
    error: ServiceError, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The response for `error`. `status` replaces the class's own; 429 and 503 say when to come back."""
    status = status or error.http_status
    headers = dict(headers or {})
    if status in _RETRY_AFTER_STATUSES:
        headers["retry-after"] = str(error.retry_after_s or _RETRY_AFTER_S)
    if status == _UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncoding):
        headers["accept-encoding"] = ACCEPTED
    if status in _RETRIED_STATUSES and not error.retryable:
        headers["x-should-retry"] = "false"
    return Response(json_bytes(error.body()), status, headers, media_type="application/json")


async def handle_service_error(request: Request, error: Exception) -> Response:
    """A handler for `ServiceError`."""
    assert isinstance(error, ServiceError)
    return error_response(error)


async def handle_http_exception(request: Request, error: Exception) -> Response:
    """A handler for what the framework refuses by itself: unknown paths, methods and the like."""
    assert isinstance(error, HTTPException)
    other = InvalidRequest if error.status_code < 500 else InternalError
    kind, message = _BY_STATUS.get(error.status_code, (other, "The request can't be handled."))
    said = message.format(path=request.url.path, method=request.method)
    return error_response(kind(said), status=error.status_code, headers=error.headers)


async def handle_validation_error(request: Request, error: Exception) -> Response:
    """A handler for parameters in the path or the query that have the wrong shape."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    return error_response(InvalidRequest(f"{name}: {first['msg']}.", param=name or None))


async def handle_unexpected(request: Request, error: Exception) -> Response:
    """A handler for everything else. The client learns nothing of the exception; `RequestBoundary` logs it."""
    return error_response(unexpected())


def unexpected() -> InternalError:
    """What a client is told of an unexpected exception."""
    return InternalError("The server failed to handle the request.")
