"""Every way in which a call of the client library can fail, one class for each thing that a caller can do about it.

    ClientError
    ├── NotReachable              no server answers, or the connection breaks too often: try later, resume `stream` at `cursor`
    ├── Refused                   the server refused the request
    │   ├── InvalidRequest        400, 405, 413, 415  correct the request; `param` names the field
    │   ├── AuthenticationFailed  401  send a valid key
    │   ├── NotAllowed            403  ask for permission
    │   ├── NotFound              404  no such model or stream, or the stream is another key's
    │   ├── Conflict              409  the idempotency key stands for another request, or the stream has ended
    │   ├── Expired               410  start again: the stream is past its retention
    │   ├── RateLimited           429  wait `retry_after_s`
    │   └── Unavailable           408, 5xx  try later, if `retryable`
    ├── GenerationFailed          the stream ended with an error frame; the text before it is valid
    ├── ProtocolError             the server sent something that is not such a stream: report it
    │   └── TextMismatch          the text is not the server's text
    └── StreamClosed              the stream was read after this client closed it

A stream that ends early ("length", "cancelled", "content_filter") is not an error: its `finish_reason` says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from streaming_inference.frames import ErrorDetail

_SHOWN_CHARACTERS = 300
_SECONDS = re.compile(r"[0-9]{1,9}")
# A proxy answers so when its server is away, and this server when it is busy.
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})


class ClientError(Exception):
    """`code` is the server's error code, or one of this library; `message` is a sentence.

    `retryable`: the same call may succeed later. `stream` and `cursor` say where to resume, if there was a stream.
    """

    def __init__(self, message: str, *, code: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.retry_after_s: int | None = None
        self.stream: str | None = None
        self.cursor: str | None = None


class NotReachable(ClientError):
    """No server answers, or the connection breaks too often in a row."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="not_reachable", retryable=True)


class Refused(ClientError):
    """The server refused the request. `status` is the HTTP status; `param` names the wrong field or header."""

    def __init__(
        self, message: str, *, code: str, status: int, param: str | None = None, retryable: bool = False
    ) -> None:
        super().__init__(message, code=code, retryable=retryable)
        self.status = status
        self.param = param


class InvalidRequest(Refused):
    """400, 405, 413, 415: the request is not valid; `param` names the field."""


class AuthenticationFailed(Refused):
    """401: the server needs a valid API key."""


class NotAllowed(Refused):
    """403: this API key may not do it."""


class NotFound(Refused):
    """404: there is no such model or stream, or the stream belongs to another key."""


class Conflict(Refused):
    """409: the idempotency key belongs to another request, or the stream has ended."""


class Expired(Refused):
    """410: the stream is past its retention."""


class RateLimited(Refused):
    """429: too many streams or readers; wait `retry_after_s`."""


class Unavailable(Refused):
    """408 and 5xx: the server can't serve the request now; try later if `retryable`."""


class GenerationFailed(ClientError):
    """The stream ended with an error frame. `detail` is its error; the text before it is valid."""

    def __init__(self, detail: ErrorDetail) -> None:
        super().__init__(detail.message, code=detail.code, retryable=detail.retryable)
        self.detail = detail


class ProtocolError(ClientError):
    """The server sent something that is not a stream of this API, or a frame that does not follow the one before."""

    def __init__(self, message: str, *, code: str = "protocol_error") -> None:
        super().__init__(message, code=code)


class TextMismatch(ProtocolError):
    """The text of a choice does not have the SHA-256 that the server sent."""

    def __init__(self, index: int) -> None:
        super().__init__(
            f"The text of choice {index} is not the server's text: its SHA-256 differs.",
            code="text_mismatch",
        )


class StreamClosed(ClientError):
    """The stream was read after this client closed it."""

    def __init__(self) -> None:
        super().__init__("This client closed the stream before its end.", code="stream_closed")


class _Said(msgspec.Struct):
    message: str
    code: str | None = None
    param: str | None = None


class _Body(msgspec.Struct):
    error: _Said


_BY_STATUS: dict[int, type[Refused]] = {
    401: AuthenticationFailed,
    403: NotAllowed,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    410: Expired,
    429: RateLimited,
}


def refused_by(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """The error of a response, which may come from this server or from a proxy. `headers` ignore case."""
    try:
        said, away = msgspec.json.decode(body, type=_Body).error, False
    except msgspec.DecodeError:
        shown = " ".join(body.decode(errors="replace").split())[:_SHOWN_CHARACTERS]
        said = _Said(f"The server answered {status}{': ' if shown else ''}{shown}.")
        # Serve's HAProxy answers 500 in plain text when it has no server. A 500 of this server is JSON, and final.
        away = status == 500
    kind = _BY_STATUS.get(status) or (Unavailable if status >= 500 else InvalidRequest)
    error = kind(
        said.message,
        code=said.code or f"http_{status}",
        status=status,
        param=said.param,
        retryable=(away or status in _RETRIED_STATUSES) and headers.get("x-should-retry") != "false",
    )
    seconds = headers.get("retry-after", "").strip()
    error.retry_after_s = int(seconds) if _SECONDS.fullmatch(seconds) else None
    return error
