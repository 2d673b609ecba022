"""CORS: which web pages of other origins may read what HTTP answers."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.asgi.error_response import error_response
from app.errors import InvalidRequest, NotAllowed

EXPOSED_HEADERS = (
    "Allow",
    "Location",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
    "X-Should-Retry",
    "X-Stream-Id",
)
"""What scripts may read of an answer, besides what every script may."""
_MAX_AGE_S = 600
_FIRST_ERROR = 400


class CrossOrigin(CORSMiddleware):
    """Allows pages of the origins `allowed` every method and every header. Errors carry the headers of CORS too.

    Cookies and other credentials of the browser are not allowed: keys travel in headers. A page of another origin gets its answer
    without these headers, which its browser then keeps from it; its preflight request is refused. The middleware sees the head of
    a streamed response, and adds nothing to the writes of its body.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=allowed,
            # The route refuses what it doesn't take, with an answer that the page can read.
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=EXPOSED_HEADERS,
            max_age=_MAX_AGE_S,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a preflight request. What is refused has the shape of every error."""
        response = super().preflight_response(request_headers)
        if response.status_code < _FIRST_ERROR:
            return response
        if not self.is_allowed_origin(request_headers["origin"]):
            error = NotAllowed(
                "Pages of this origin may not call. See ingress.allowed_origins.", param="Origin"
            )
            return error_response(error, headers={"vary": "Origin"})
        name = "Access-Control-Request-Method"
        return error_response(InvalidRequest(f"{name} names no method that this server has.", param=name))
