"""Takes off the request headers that Serve acts on, before Serve sees them.

Serve reads some headers of clients as orders: a time limit that cuts a stream without a terminal event, a session or a model that
picks the replica. It decodes their values as UTF-8, and answers a request with 500 when that fails. Serve calls `middlewares`
(`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`) in each process that listens to HTTP, and puts the result around its own code.
docs/security.md has the list.
"""

from __future__ import annotations

from ray.serve._private.constants import SERVE_SESSION_ID
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.asgi.middleware import VALID_REQUEST_ID

REMOVED = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        SERVE_SESSION_ID.lower().replace("_", "-").encode(),
    }
)
"""Names, with `-` for `_`: Serve takes one for the other in some of them."""
REMOVED_PREFIX = b"x-serve-router-"
DECODED = frozenset({b"traceparent", b"tracestate"})
"""Serve decodes them when tracing is on. They stay unless they would make it fail."""
_REQUEST_ID = b"x-request-id"


class HeaderFilter:
    """Passes requests on without the headers of `REMOVED`. One `x-request-id` stays, if it is a valid one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            scope["headers"] = filtered(scope["headers"])
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Called by Serve."""
    return [Middleware(HeaderFilter)]


def filtered(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """`headers` without those that Serve would act on or fail at."""
    kept = []
    has_request_id = False
    for name, value in headers:
        known = name.lower().replace(b"_", b"-")
        if not name.isascii() or known in REMOVED or known.startswith(REMOVED_PREFIX):
            continue
        if known in DECODED and not value.isascii():
            continue
        if known == _REQUEST_ID:
            if has_request_id or not VALID_REQUEST_ID.fullmatch(value):
                continue
            has_request_id = True
        kept.append((name, value))
    return kept
