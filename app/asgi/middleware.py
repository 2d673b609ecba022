"""What surrounds every request: its id, the last line of defence against exceptions, and what HTTP/1.0 clients need.

Pure ASGI: it adds nothing to the writes of a streamed body, which go to the server's own `send` (`scope[SERVER_SEND]`).
"""

from __future__ import annotations

import logging
import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.asgi.error_response import error_response, unexpected
from app.asgi.server_send import end_with_connection

logger = logging.getLogger(__name__)

SERVER_SEND = "app.server_send"

_REQUEST_ID = b"x-request-id"
_CONTENT_LENGTH = b"content-length"
VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


class RequestBoundary:
    """The outermost layer. Every response carries `x-request-id`: the client's own if it is a valid one, else a new one.

    `echo_request_id` is False under a server that writes the header itself. An unhandled exception is logged here,
    once, and answered with a 500 that says nothing of it; after the first byte the connection is cut instead: the server does
    that when an application returns in mid-body. For a client that speaks
    HTTP/1.0 a body without a length ends with the connection.
    """

    def __init__(self, app: ASGIApp, *, echo_request_id: bool) -> None:
        self._app = app
        self._echo_request_id = echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = (value for name, value in scope["headers"] if name == _REQUEST_ID)
        valid = (bytes(value) for value in given if VALID_REQUEST_ID.fullmatch(value))
        request_id = next(valid, None) or f"req_{secrets.token_hex(12)}".encode()
        knows_no_chunks = scope.get("http_version") == "1.0"
        started = False

        async def send_marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = message.setdefault("headers", [])
                if knows_no_chunks and not any(name == _CONTENT_LENGTH for name, _ in headers):
                    end_with_connection(send)
                if self._echo_request_id:
                    message["headers"] = [*headers, (_REQUEST_ID, request_id)]
            await send(message)

        scope[SERVER_SEND] = send
        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            logger.exception("request %s failed", request_id.decode())
            if not started:
                await error_response(unexpected())(scope, receive, send_marked)
