"""What several routes have in common: their headers and parameters, and the errors that they answer with."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query
from pydantic import WithJsonSchema

from app.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    GeneratorUnavailable,
    IdempotencyConflict,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PromptTooLong,
    RequestTimeout,
    StreamExpired,
    StreamNotFound,
    TooManyStreams,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from app.idempotency import HEADER as IDEMPOTENCY_KEY

LAST_EVENT_ID = "Last-Event-ID"

_STRING = WithJsonSchema({"type": "string"})  # may be absent, which is not null

IdempotencyKey = Annotated[
    str | None,
    _STRING,
    Header(
        alias=IDEMPOTENCY_KEY,
        description=(
            "1 to 255 characters of visible ASCII. The same key with the same body gives the same stream, read from its start."
        ),
    ),
]
LastEventId = Annotated[
    str | None,
    _STRING,
    Header(alias=LAST_EVENT_ID, description="`<stream>:<cursor>`, the id of the last event that was read."),
]
After = Annotated[str | None, _STRING, Query(description="A cursor. The stream is read from there on.")]

ENCODING = (
    InvalidRequest,
    PromptTooLong,
    AuthenticationFailed,
    ModelNotFound,
    RequestTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    UnsupportedEncoding,
    Overloaded,
    GeneratorUnavailable,
)
"""The errors of a route that takes a prompt."""

STARTING = (*ENCODING, IdempotencyConflict, TooManyStreams)
"""The errors of a route that starts a stream."""

FINDING = (AuthenticationFailed, StreamNotFound, StreamExpired)
"""The errors of a route that names a stream."""
