"""What the server sends on a connection that carries many streams: frames, each with its stream, and replies to messages."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from app.errors import ServiceError
from app.schema.frames import ErrorDetail, Frame


class ErrorReplyDetail(ErrorDetail, frozen=True):
    param: str | None


class ErrorReply(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """A message could not be carried out. Unlike an error frame it has no cursor: the stream that it names goes on."""

    error: ErrorReplyDetail


class Pong(msgspec.Struct, frozen=True, tag_field="type", tag="pong"):
    """The answer to a ping."""


class Addressed(NamedTuple):
    """One message to the client. `ref` is that of the client's message which it answers."""

    frame: Frame | ErrorReply | Pong
    stream: str | None = None
    ref: str | None = None


def error_reply(error: ServiceError) -> ErrorReply:
    """The reply that says `error`."""
    return ErrorReply(ErrorReplyDetail(error.code, error.message, error.type, error.retryable, error.param))
