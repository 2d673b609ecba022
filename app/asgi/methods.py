"""The methods of an address: HEAD wherever GET is, and `Allow` with all of them."""

from __future__ import annotations

from itertools import chain

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router

from app.asgi.error_response import handle_http_exception

_METHOD_NOT_ALLOWED = 405
_NO_CONTENT = 204


def with_head(method: str) -> list[str]:
    """`method`, and HEAD beside GET. The server leaves the body of its answer out."""
    return [method, "HEAD"] if method == "GET" else [method]


class MethodNotAllowedHandler:
    """Answers `HTTPException`. The framework names the methods of one route in `Allow`; an address can have several.

    OPTIONS, which no route has, is answered with the methods.
    """

    def __init__(self, routes: Router) -> None:
        """`routes` are those that the application includes, whose own list does not show them."""
        self._routes = routes

    async def __call__(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code != _METHOD_NOT_ALLOWED:
            return await handle_http_exception(request, error)
        methods = {"OPTIONS"}
        for route in chain(self._routes.routes, request.app.routes):
            if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
                methods |= route.methods or set()
        allow = {"allow": ", ".join(sorted(methods))}
        if request.method == "OPTIONS":
            return Response(status_code=_NO_CONTENT, headers=allow)
        return await handle_http_exception(request, HTTPException(_METHOD_NOT_ALLOWED, headers=allow))
