"""The client of a server: starts streams, resumes them, asks about them and ends them."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx
import msgspec

from streaming_inference.background import Background
from streaming_inference.clock import Clock, LoopClock
from streaming_inference.errors import ClientError, ProtocolError
from streaming_inference.http import Http
from streaming_inference.request import RequestFields, encode_request
from streaming_inference.retry import Retries, RetryPolicy
from streaming_inference.status import StreamStatus
from streaming_inference.stream import GenerationStream, OnExit, Opening, stream_path

T = TypeVar("T")


class ModelInfo(msgspec.Struct, frozen=True):
    """A model of the server. `created` is Unix seconds. `deterministic` is what its streams say in their start frames."""

    id: str
    created: int
    owned_by: str
    deterministic: bool = False


class _ModelList(msgspec.Struct):
    data: list[ModelInfo]


class _Started(msgspec.Struct):
    stream: str


class Client:
    """A server at `url`, which may have a path. Belongs to one event loop; used with `async with`, or ended with `aclose`.

    `retry` says how often a call is repeated when no server answers. A connection that brings no byte for `silence_timeout_s`
    is replaced by a new one; this must be longer than the server's heartbeat (`streams.heartbeat_s`). `transport` and `clock`
    are for tests.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        retry: RetryPolicy | None = None,
        connect_timeout_s: float = 5.0,
        silence_timeout_s: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._http = Http(
            url,
            api_key,
            connect_timeout_s=connect_timeout_s,
            silence_timeout_s=silence_timeout_s,
            transport=transport,
        )
        self._policy = retry or RetryPolicy()
        self._clock = clock or LoopClock()
        self._background = Background()

    def generate(
        self,
        *,
        on_exit: OnExit = "cancel",
        idempotency_key: str | None = None,
        **request: Unpack[RequestFields],
    ) -> GenerationStream:
        """A new stream. The request is sent when the stream is opened or read.

        `on_exit` says what a block that is left early does: "cancel" ends the stream on the server, "leave" lets the server
        finish it without a reader. Processes that send the same request with the same `idempotency_key` get the same stream.
        """
        if on_exit == "leave":
            request.setdefault("on_disconnect", "continue")
        key = idempotency_key or secrets.token_hex(16)
        return self._stream(Opening(body=encode_request(request), idempotency_key=key), on_exit)

    def resume(
        self, stream: str, after: str | None = None, *, on_exit: OnExit = "cancel"
    ) -> GenerationStream:
        """A stream that a holder of the same API key has started: from its start, or after the cursor `after`.

        The text is checked against the server's hash when it is read from the start. After a cursor only the order is checked.
        Raises `ValueError` when `after` is not a cursor.
        """
        return self._stream(Opening(stream=stream, after=after), on_exit)

    async def start(self, *, idempotency_key: str | None = None, **request: Unpack[RequestFields]) -> str:
        """Starts a stream without a reader, and returns its name for `resume`. The stream goes on to its end."""
        body = encode_request(request, detach=True)
        key = idempotency_key or secrets.token_hex(16)
        answer = await self._persist(
            lambda: self._http.call("POST", "/v1/streams", body, Idempotency_Key=key)
        )
        return _decode(answer, _Started).stream

    async def cancel(self, stream: str) -> StreamStatus:
        """Ends a stream; returns its status. A stream that has ended is not changed."""
        return _decode(
            await self._persist(lambda: self._http.call("DELETE", stream_path(stream))), StreamStatus
        )

    async def status(self, stream: str) -> StreamStatus:
        """The status of a stream."""
        return _decode(await self._persist(lambda: self._http.call("GET", stream_path(stream))), StreamStatus)

    async def models(self) -> list[ModelInfo]:
        """The models of the server."""
        return _decode(await self._persist(lambda: self._http.call("GET", "/v1/models")), _ModelList).data

    async def aclose(self) -> None:
        """Waits until the streams that were left are cancelled, then closes all connections."""
        await self._background.join()
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _stream(self, opening: Opening, on_exit: OnExit) -> GenerationStream:
        return GenerationStream(
            self._http,
            opening,
            self._retries(),
            on_exit=on_exit,
            clock=self._clock,
            cancel=self.cancel,
            background=self._background,
        )

    def _retries(self) -> Retries:
        return Retries(self._policy, self._clock)

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeats `attempt` until it succeeds or its retries are used up. Only for calls that may be repeated."""
        retries = self._retries()
        while True:
            try:
                return await attempt()
            except ClientError as error:
                await retries.wait(error)


def _decode(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"The server's answer does not have the expected form: {error}.") from error
