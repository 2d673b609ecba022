"""Opening streams for callers that have an object instead of an HTTP request: the same fields, checks and errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import msgspec

from app.errors import InvalidRequest
from app.idempotency import idempotency_of
from app.schema.client_messages import Cancel, Resume
from app.schema.frames import Frame
from app.schema.native import StreamBody
from app.schema.requests import OnDisconnect
from app.service import GenerationService
from app.streams.reader import Reader
from app.streams.status import StreamStatus
from app.streams.stream import Stream
from app.validation import parse_object

# A key that was used over HTTP stands for the same stream here.
_ROUTE = "/v1/streams"
# What one message can hold, with log probabilities, within the usual limit of 4 MiB: a reader that comes late gets more of them.
_CATCH_UP_TOKENS = 1024


async def open_stream(
    service: GenerationService,
    fields: object,
    owner: str,
    key: str | None = None,
    *,
    on_disconnect: OnDisconnect = "grace",
) -> Stream:
    """The stream that `fields` ask for: a new one, or the one that the owner's idempotency key stands for.

    `fields` are those of `POST /v1/streams`; `on_disconnect` is for streams that don't say it. Raises the `ServiceError` that
    prevents the stream.
    """
    body = parse_object(StreamBody, fields)
    request = body.to_request(service.settings.limits, service.settings.default_model)
    if not body.stream:
        raise InvalidRequest("stream must be true here: the answer comes as frames.", param="stream")
    if key is not None:
        return await service.start(request, owner, idempotency_of(key, _ROUTE, request))
    if not body.detach and "on_disconnect" not in body.model_fields_set:
        request = msgspec.structs.replace(request, on_disconnect=on_disconnect)
    return await service.start(request, owner)


async def reopen_stream(service: GenerationService, fields: Mapping[str, object], owner: str) -> Reader:
    """A reader of the stream that `fields` name, after the cursor `after`. Raises what `GenerationService.resume` raises.

    It has a window, so that no frame is larger than a message may be: see `pulled_frames`.
    """
    wanted = parse_object(Resume, {"type": "resume", **fields})
    return await service.resume(wanted.stream, wanted.after, owner, _CATCH_UP_TOKENS)


async def pulled_frames(reader: Reader) -> AsyncGenerator[Frame, None]:
    """The frames of `reader`, for one whose window moves on when the next frame is asked for. Otherwise as `Reader.frames`."""
    async with aclosing(reader.frames()) as frames:
        async for frame in frames:
            yield frame
            if reader.window is not None:
                reader.acknowledge(frame.cursor)


async def cancel_stream(service: GenerationService, fields: Mapping[str, object], owner: str) -> StreamStatus:
    """Cancels the stream that `fields` name. Raises what `GenerationService.cancel` raises."""
    wanted = parse_object(Cancel, {"type": "cancel", **fields})
    return await service.cancel(wanted.stream, owner)
