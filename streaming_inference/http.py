"""The requests of a client: one attempt each. Every failure becomes an error of the client library."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import httpx
import msgspec

from streaming_inference.errors import ClientError, NotReachable, ProtocolError, refused_by
from streaming_inference.event_scanner import EventScanner, EventTooLarge
from streaming_inference.frames import Frame

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_EVENT_BYTES = 64 * 1024 * 1024
"""A finished stream with log probabilities may come as one event."""
MAX_ERROR_BYTES = 65_536
MAX_CONNECTIONS = 1024
_decode_frame = msgspec.json.Decoder(Frame).decode


class Http:
    """One server. A connection that brings no byte for `silence_timeout_s` counts as broken: the server has a heartbeat."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        connect_timeout_s: float,
        silence_timeout_s: float,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(
                f"{url!r} is not the address of an HTTP server; an address begins with http:// or https://"
            )
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError(
                "the API key has characters that a header can't have; it may have printable ASCII characters"
            )
        self._url = url.rstrip("/")
        headers = {"accept-encoding": "identity"}  # a compressed event could wait for the next one
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(silence_timeout_s, connect=connect_timeout_s),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=32),
            transport=transport,
        )

    async def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        """The body of the answer. Raises `NotReachable`, `Refused` and `ProtocolError`."""
        response = await self._send(method, path, body, headers)
        try:
            return await _read(response, MAX_ANSWER_BYTES)
        finally:
            await response.aclose()

    async def events(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> EventConnection:
        """A connection that brings a stream; the caller closes it. Raises as `call` does."""
        return EventConnection(
            await self._send(method, path, body, {"accept": "text/event-stream", **headers})
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            said["content-type"] = "application/json"
        request = self._client.build_request(method, self._url + path, content=body, headers=said)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise not_reachable(error) from error
        if response.status_code // 100 == 2:
            return response
        try:
            raise refused_by(
                response.status_code, response.headers, await _read(response, MAX_ERROR_BYTES, cut=True)
            )
        finally:
            await response.aclose()


class EventConnection:
    """The frames of one response. `stream_id` is its header X-Stream-Id, if it has one."""

    def __init__(self, response: httpx.Response) -> None:
        self.stream_id: str | None = response.headers.get("x-stream-id")
        self._response = response
        self._chunks = response.aiter_bytes()
        self._scanner = EventScanner(MAX_EVENT_BYTES)

    async def receive(self) -> list[Frame]:
        """The frames that the next bytes complete, perhaps none. Raises `NotReachable` when no more bytes come.

        The end of the body is not the end of the stream: that is a frame.
        """
        try:
            chunk = await anext(self._chunks)
            return [_decode_frame(data) for data in self._scanner.feed(chunk)]
        except StopAsyncIteration:
            raise NotReachable("The connection ended before the stream did.") from None
        except httpx.HTTPError as error:
            raise not_reachable(error) from error
        except EventTooLarge as error:
            raise ProtocolError(f"The server sent too large an event: {error}.") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"The server sent an event that is no frame: {error}.") from error

    async def aclose(self) -> None:
        with suppress(httpx.HTTPError):
            await self._response.aclose()


def not_reachable(error: httpx.HTTPError) -> ClientError:
    """The error of a request without an answer, or of a connection that broke."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return NotReachable(f"No server answers at {error.request.url.copy_with(path='/', query=None)}.")
    if isinstance(error, httpx.PoolTimeout):
        return NotReachable(f"This client already has {MAX_CONNECTIONS} open connections, the maximum.")
    if isinstance(error, httpx.TimeoutException):
        return NotReachable("The server sent nothing for longer than the timeout.")
    if isinstance(error, httpx.TransportError):
        return NotReachable("The connection to the server broke.")
    return ProtocolError(f"The answer can't be read: {type(error).__name__}.")


async def _read(response: httpx.Response, max_bytes: int, *, cut: bool = False) -> bytes:
    """The body. With `cut`, at most its first `max_bytes` bytes."""
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > max_bytes:
                if cut:
                    break
                raise ProtocolError(f"The answer is larger than {max_bytes} bytes, the maximum.")
    except httpx.HTTPError as error:
        if not cut:  # with `cut` the status is known, and says enough
            raise not_reachable(error) from error
    return bytes(body[:max_bytes])
