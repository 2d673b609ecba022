"""What the server sends on a connection that carries many streams: frames, each with its stream, and replies to messages."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from app.errors import ServiceError
from app.schema.frames import ErrorDetail, Frame


class RefusalDetail(ErrorDetail, frozen=True):
    param: str | None


class Refusal(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """A message could not be carried out. Unlike an error frame it has no cursor: the stream that it names goes on."""

    error: RefusalDetail


class Pong(msgspec.Struct, frozen=True, tag_field="type", tag="pong"):
    """The answer to a ping."""


class Addressed(NamedTuple):
    """One message to the client. `ref` is that of the client's message which it answers."""

    frame: Frame | Refusal | Pong
    stream: str | None = None
    ref: str | None = None


def refusal(error: ServiceError) -> Refusal:
    """The reply that says `error`."""
    return Refusal(RefusalDetail(error.code, error.message, error.type, error.retryable, error.param))
