"""`/v1/ws`: a conversation over a WebSocket.

Pure ASGI. Frames take the same way as in `app.asgi.stream_response`: the readers call `Connection` synchronously, and it drives
the server's `send` on the spot. While the socket is full nothing is taken from the conversation, so that the backlog stays in
the streams, as tokens; messages of the client are heard all the same.

Endings, whichever comes first:

    the client went away                the handler is cancelled, or reads the disconnect, depending on Serve's mode
    the socket stayed full for too long the connection is cut
    the key was taken back              1008, at the next message
    a message was too big               1009
    the conversation must end           the close code of its error: 1012 draining, 1013 too many messages
    anything unforeseen                 1011

In every case the conversation is closed, which leaves its streams to their `on_disconnect`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from app.asgi.origin import check_origin
from app.asgi.outlet import Outlet
from app.asgi.server_send import innermost_send
from app.conversation import Conversation
from app.errors import BodyTooLarge, InternalError, InvalidRequest, Overloaded, ServiceError
from app.schema.client_messages import MAX_NAME_LENGTH
from app.service import GenerationService
from app.validation import decode_json, parse_message
from app.wire.json_text import json_bytes
from app.wire.websocket import message_json

logger = logging.getLogger(__name__)

PATH = "/v1/ws"
# The protocol has room for no more.
_MAX_REASON_BYTES = 123
_CAN_REFUSE = "websocket.http.response"


class WebSocketEndpoint:
    """An ASGI application for the WebSockets of one process. `connections` counts those that are open."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        self._settings = service.settings
        self.connections = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # "websocket.connect", which says nothing
        headers = Headers(scope=scope)
        try:
            check_origin(headers, self._settings.ingress.allowed_origins)
            owner = self._service.owner_of(headers)
        except ServiceError as error:
            await _refuse(error, scope, send)
            return
        await send({"type": "websocket.accept"})
        if self.connections >= self._settings.ingress.max_websockets:
            await send(
                _close(
                    Overloaded(
                        f"The server already has {self.connections} WebSocket connections, the maximum."
                    )
                )
            )
            return
        self.connections += 1
        conversation = Conversation(self._service, owner)
        connection = Connection(
            conversation,
            innermost_send(send),
            authorize=partial(self._service.owner_of, headers),
            max_message_bytes=self._settings.limits.max_message_bytes,
            reader_stall_timeout_s=self._settings.limits.reader_stall_timeout_s,
        )
        try:
            await connection.run(receive)
        except Exception:
            logger.exception("a WebSocket broke")
        finally:
            self.connections -= 1
            await conversation.close()


class Connection:
    """Carries a conversation over an accepted WebSocket. Used once, on the loop that feeds the streams.

    `authorize` is called for each message, as keys may be taken back; it raises the `ServiceError` that ends the connection.
    """

    def __init__(
        self,
        conversation: Conversation,
        send: Send,
        *,
        authorize: Callable[[], object],
        max_message_bytes: int,
        reader_stall_timeout_s: float,
    ) -> None:
        self._conversation = conversation
        self._send = send
        self._authorize = authorize
        self._max_message_bytes = max_message_bytes
        self._outlet = Outlet(
            reader_stall_timeout_s=reader_stall_timeout_s,
            on_free=self._on_ready,
            on_stalled=self._note_stalled,
        )
        # What was taken together and could not be written together: no more than one frame or two of each stream.
        self._backlog: deque[str] = deque()
        self._writing = False
        self._error: ServiceError | None = None

    async def run(self, receive: Receive) -> None:
        """Returns when the connection is closed or must be cut. After cancellation nothing more is written.

        Raises what `send` raised, unless it was an `OSError`, which is a client that went away.
        """
        self._conversation.on_ready = self._on_ready
        hearing = asyncio.get_running_loop().create_task(self._hear(receive))
        try:
            self._on_ready()
            await self._outlet.over
        finally:
            self._conversation.on_ready = None
            self._outlet.close()
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    # What the client is sent.

    def _on_ready(self) -> None:
        """Writes all that is ready, unless an earlier write still waits for the socket. Never raises."""
        if self._writing:
            return
        self._writing = True
        try:
            while self._outlet.free:
                if self._backlog:
                    message = {"type": "websocket.send", "text": self._backlog.popleft()}
                    self._outlet.drive(self._send, message, _nothing)
                elif taken := self._conversation.take():
                    self._backlog.extend(map(message_json, taken))
                else:
                    self._close_if_needed()
                    break
        except Exception:
            logger.exception("what a WebSocket was to be sent could not be written")
            self._backlog.clear()
            self._error = InternalError("The server failed to write to this connection.")
            self._close_if_needed()
        finally:
            self._writing = False

    def _close_if_needed(self) -> None:
        error = self._error or self._conversation.ending
        if error is not None and self._outlet.free:
            self._outlet.drive(self._send, _close(error), self._outlet.end)

    def _fail(self, error: ServiceError) -> None:
        """Closes with what `error` says, when all that is ready has been written."""
        self._error = self._error or error
        self._on_ready()

    def _note_stalled(self) -> None:
        logger.info("the client of a WebSocket stands still: cutting its connection")

    # What the client says.

    async def _hear(self, receive: Receive) -> None:
        """Takes in messages until the client goes away."""
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                if self._error is None:
                    self._accept(message)
                # A queue that never runs empty would keep every other task from running.
                await asyncio.sleep(0)
        except Exception:
            logger.exception("a WebSocket can't be read")
            self._fail(InternalError("The server failed to read from this connection."))
            return
        self._outlet.end()

    def _accept(self, message: Message) -> None:
        text = message.get("text")
        raw = message.get("bytes") or b"" if text is None else text.encode()
        if len(raw) > self._max_message_bytes:
            self._fail(BodyTooLarge(f"A message is larger than {self._max_message_bytes} bytes."))
            return
        said: object = None
        try:
            self._authorize()
            if text is None:
                raise InvalidRequest("Send messages as text.")
            said = decode_json(raw)
            self._conversation.accept(parse_message(said))
        except InvalidRequest as error:
            ref, stream = _names(said)
            self._conversation.refuse(error, ref=ref, stream=stream)
        except ServiceError as error:
            self._fail(error)


def _names(said: object) -> tuple[str | None, str | None]:
    """What a message that is not valid calls itself and its stream, where these are names at all."""
    if not isinstance(said, dict):
        return None, None
    # In `generate`, as in the body of a POST, `stream` is no name.
    given = said.get("ref"), None if said.get("type") == "generate" else said.get("stream")
    ref, stream = (
        name if isinstance(name, str) and 0 < len(name) <= MAX_NAME_LENGTH else None for name in given
    )
    return ref, stream


def _nothing() -> None:
    pass


def _close(error: ServiceError) -> Message:
    reason = error.message.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
    return {"type": "websocket.close", "code": error.ws_close_code, "reason": reason}


async def _refuse(error: ServiceError, scope: Scope, send: Send) -> None:
    """Answers the handshake with the error's status, or with 403 where the server can say nothing else."""
    if _CAN_REFUSE not in (scope.get("extensions") or {}):
        await send(_close(error))
        return
    headers = [(b"content-type", b"application/json")]
    await send({"type": f"{_CAN_REFUSE}.start", "status": error.http_status, "headers": headers})
    await send({"type": f"{_CAN_REFUSE}.body", "body": json_bytes(error.body())})
