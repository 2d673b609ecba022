"""What clients send on a connection that carries many streams: a WebSocket, or `Converse` of gRPC.

One class for each `type`. Like the bodies of HTTP requests the messages are strict, and unknown fields are refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from app.schema.fields import Fields, StopStrings
from app.schema.native import StreamBody

MAX_NAME_LENGTH = 128
MAX_CURSOR_LENGTH = 256
MAX_STEERED_LENGTH = 65_536
MAX_WINDOW_TOKENS = 1_000_000

StreamId = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
Cursor = Annotated[str, Field(min_length=1, max_length=MAX_CURSOR_LENGTH)]
Ref = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
Window = Annotated[int, Field(ge=1, le=MAX_WINDOW_TOKENS)]


class Message(Fields):
    """Any message. `ref` is the client's own name for it, repeated in the `start` frame and in the error that answers it."""

    model_config = ConfigDict(extra="forbid")

    ref: Ref | None = None


class Generate(StreamBody, Message):
    """Starts a stream: every field of `POST /v1/streams`.

    With `detach` the `start` frame is the whole answer. `window`: send no more tokens than this beyond the last `ack`.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=None)

    type: Literal["generate"]
    window: Window | None = None


class Resume(Message):
    """Reads a stream after the cursor `after`; from its start without one."""

    type: Literal["resume"]
    stream: StreamId
    after: Cursor | None = None
    window: Window | None = None


class Ack(Message):
    """The client has what lies before `cursor`: the window of the stream moves on."""

    type: Literal["ack"]
    stream: StreamId
    cursor: Cursor


class Update(Message):
    """Adds stop strings to a stream that runs. They count in the text from here on."""

    type: Literal["update"]
    stream: StreamId
    stop: Annotated[StopStrings, Field(min_length=1)]


class Steer(Message):
    """Puts text into the context of a stream that runs, which goes on from there."""

    type: Literal["steer"]
    stream: StreamId
    text: Annotated[str, Field(min_length=1, max_length=MAX_STEERED_LENGTH)]


class Stop(Message):
    """Ends a stream now, as if it had come to its end by itself."""

    type: Literal["stop"]
    stream: StreamId


class Cancel(Message):
    """Cancels a stream."""

    type: Literal["cancel"]
    stream: StreamId


class Ping(Message):
    """Asks for a pong: whether the server hears, for clients that can't see the pings of the protocol."""

    type: Literal["ping"]


StreamMessage = Resume | Ack | Update | Steer | Stop | Cancel
"""Those that name a stream."""
ClientMessage = Generate | StreamMessage | Ping

MESSAGE_TYPES: dict[str, type[ClientMessage]] = {
    "generate": Generate,
    "stop": Stop,
    "update": Update,
    "steer": Steer,
    "resume": Resume,
    "ack": Ack,
    "cancel": Cancel,
    "ping": Ping,
}
