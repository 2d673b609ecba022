"""Every way in which a call of the client library can fail, one class for each thing that a caller can do about it.

    ClientError
    ├── NotReachable              no server answers, or the connection breaks too often: try later, resume `stream` at `cursor`
    ├── Refused                   the server said no
    │   ├── InvalidRequest        400, 405, 413, 415  mend the request; `param` names the field
    │   ├── AuthenticationFailed  401  send a valid key
    │   ├── NotAllowed            403  ask for permission
    │   ├── NotFound              404  no such model or stream, or the stream is another key's
    │   ├── Conflict              409  the idempotency key stands for another request, or the stream has ended
    │   ├── Expired               410  start again: the stream is past its retention
    │   ├── RateLimited           429  wait `retry_after_s`
    │   └── Unavailable           408, 5xx  try later, if `retryable`
    ├── GenerationFailed          the stream ended with an error frame; what came before is good
    ├── ProtocolError             what came is no stream of this kind: report it
    │   └── TextMismatch          the text is not the one that the server made
    └── StreamClosed              it was read after it was closed here

An answer that others end ("length", "cancelled", "content_filter") is no error: its `finish_reason` says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from streaming_inference.frames import ErrorDetail

_SHOWN_CHARACTERS = 300
_SECONDS = re.compile(r"[0-9]{1,9}")
# What proxies say when the server behind them is away, and this server when it is busy.
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})


class ClientError(Exception):
    """`code` is the server's word for it, or one of this library; `message` is a sentence.

    `retryable`: the same call may succeed later. `stream` and `cursor` say where to resume, when there was a stream.
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
    def __init__(self, message: str) -> None:
        super().__init__(message, code="not_reachable", retryable=True)


class Refused(ClientError):
    """`status` is the HTTP status; `param` names the field or header at fault."""

    def __init__(
        self, message: str, *, code: str, status: int, param: str | None = None, retryable: bool = False
    ) -> None:
        super().__init__(message, code=code, retryable=retryable)
        self.status = status
        self.param = param


class InvalidRequest(Refused):
    pass


class AuthenticationFailed(Refused):
    pass


class NotAllowed(Refused):
    pass


class NotFound(Refused):
    pass


class Conflict(Refused):
    pass


class Expired(Refused):
    pass


class RateLimited(Refused):
    pass


class Unavailable(Refused):
    pass


class GenerationFailed(ClientError):
    """`detail` is the error of the last frame."""

    def __init__(self, detail: ErrorDetail) -> None:
        super().__init__(detail.message, code=detail.code, retryable=detail.retryable)
        self.detail = detail


class ProtocolError(ClientError):
    def __init__(self, message: str, *, code: str = "protocol_error") -> None:
        super().__init__(message, code=code)


class TextMismatch(ProtocolError):
    def __init__(self, index: int) -> None:
        super().__init__(
            f"The text of choice {index} is not the one that the server made: its SHA-256 differs.",
            code="text_mismatch",
        )


class StreamClosed(ClientError):
    def __init__(self) -> None:
        super().__init__("The stream was closed here before its end.", code="stream_closed")


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


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """The error that a response stands for, be it of this server or of something in between. `headers` ignore case."""
    # What Serve's HAProxy says in plain text when it has no server; this server's own 500 is JSON, and final.
    away = status == 500
    try:
        said = msgspec.json.decode(body, type=_Body).error
        away = False
    except msgspec.DecodeError:
        said = _Said(f"The server answered {status}{_excerpt(body)}.")
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


def _excerpt(body: bytes) -> str:
    text = " ".join(body.decode(errors="replace").split())
    return f": {text[:_SHOWN_CHARACTERS]}" if text else ""
