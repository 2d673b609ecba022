"""What code in the same cluster calls through handles: streams as dicts, with the errors of `app.errors`.

A caller that drops its call leaves the stream. Unless the request says otherwise such a stream is cancelled at once: a caller in
the cluster leaves because it wants no more.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.datastructures import Headers

from app.auth import NOBODY
from app.errors import BodyTooLarge, InvalidRequest
from app.idempotency import checked_key
from app.opening import cancel_stream, open_stream, pulled_frames, reopen_stream
from app.service import GenerationService
from app.streams.reader import Reader

_encode_json = msgspec.json.Encoder().encode

Fields = dict[str, Any]


class HandleCalls:
    """The methods of `serve.get_app_handle(...)`. Each raises the `ServiceError` that keeps it from its first frame.

    After that an error is a frame, but for `Draining`, which is raised when the process stops: `resume` goes on elsewhere.
    """

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    async def generate(
        self, request: Fields, api_key: str | None, idempotency_key: str | None
    ) -> AsyncGenerator[Fields, None]:
        """Starts a stream; gives its frames. With `detach` that is the start frame alone."""
        owner, key = self._owner(api_key), checked_key(idempotency_key)
        stream = await open_stream(self._service, self._checked(request), owner, key, on_disconnect="cancel")
        if stream.request.detach:
            return _one(msgspec.to_builtins(stream.start))
        return _frames(await self._service.read(stream))

    async def resume(
        self, stream: str, after: str | None, api_key: str | None
    ) -> AsyncGenerator[Fields, None]:
        """The frames of a stream after a cursor, live to the end."""
        wanted = {"stream": stream, "after": after}
        return _frames(await reopen_stream(self._service, wanted, self._owner(api_key)))

    async def cancel(self, stream: str, api_key: str | None) -> Fields:
        """Cancels a stream; its status, when it has ended."""
        status = await cancel_stream(self._service, {"stream": stream}, self._owner(api_key))
        said: Fields = msgspec.to_builtins(status)
        return said

    def _owner(self, api_key: str | None) -> str:
        """Who calls. Callers inside the cluster need no key; one that is given must be good."""
        if api_key is None:
            return NOBODY
        return self._service.owner_of(Headers({"authorization": f"Bearer {api_key}"}))

    def _checked(self, request: Fields) -> Fields:
        """`request`, if it could have come as JSON, within the limit of a body."""
        most = self._service.settings.limits.max_body_bytes
        try:
            size = len(_encode_json(request))
        except UnicodeEncodeError:
            return request  # the validator says where
        except (TypeError, ValueError, RecursionError):
            raise InvalidRequest("The request must be made of what JSON has.") from None
        if size > most:
            raise BodyTooLarge(f"The request must have at most {most} bytes as JSON.")
        return request


async def _frames(reader: Reader) -> AsyncGenerator[Fields, None]:
    async with aclosing(pulled_frames(reader)) as frames:
        async for frame in frames:
            yield msgspec.to_builtins(frame)


async def _one(frame: Fields) -> AsyncGenerator[Fields, None]:
    yield frame
