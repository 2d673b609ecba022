"""A streamed HTTP response: from a reader's frames to the socket, with no task switch and no queue on the way.

The reader calls `Delivery` synchronously when there is something to take, from the loop that dispatches the channel. The
frames are encoded and the server's `send` is driven to its end on the spot; nearly always it returns without waiting, as the
bytes only go to the transport's buffer. When it does wait, the socket is full: the suspended `send` is handed to a task of its
own, and nothing is taken until that is through, so that the backlog stays in the stream, as tokens.

Endings, whichever comes first:

    the terminal frame was written      the body is closed in the same write
    the client went away                the reader is closed, nothing more is written
    the socket stayed full for too long the same, and the connection is cut without a clean end of body
    frames could not be made            an error frame and a closed body; if that fails too, the connection is cut
    the reader was cut off              the connection is cut without a clean end of body: the stream goes on elsewhere

The reader belongs to the response and is closed with it, also under cancellation.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.asgi.middleware import SERVER_SEND
from app.asgi.outlet import Outlet
from app.asgi.server_send import chunked_body, innermost_send
from app.errors import InternalError
from app.schema.frames import error_frame
from app.streams.frame_source import FrameSource
from app.wire.encoder import Encoder

logger = logging.getLogger(__name__)

# Timers of event loops are a little early at times; a beat this close to its moment counts as due.
_TIMER_SLACK_S = 0.002


class StreamResponse(Response):
    """Server-sent events of one reader. `heartbeat_s` without a write gives a heartbeat; a socket that takes nothing for
    `reader_stall_timeout_s` is cut."""

    def __init__(
        self,
        reader: FrameSource,
        encoder: Encoder,
        *,
        heartbeat_s: float,
        reader_stall_timeout_s: float,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._reader = reader
        self._encoder = encoder
        self._heartbeat_s = heartbeat_s
        self._reader_stall_timeout_s = reader_stall_timeout_s
        self.init_headers(head_of(encoder.media_type, reader.stream_id))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        with self._reader:
            # The head passes through the middleware; the body goes to the server directly, to spare each token the way.
            delivery = Delivery(
                self._reader,
                self._encoder,
                scope.get(SERVER_SEND, send),
                heartbeat_s=self._heartbeat_s,
                reader_stall_timeout_s=self._reader_stall_timeout_s,
            )
            await delivery.run(send, head, receive)


def head_of(media_type: str, stream_id: str) -> dict[str, str]:
    """The headers of a streamed response."""
    return {
        "content-type": media_type,
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
        "x-stream-id": stream_id,
    }


class Delivery:
    """Carries the frames of one reader to one `send`. Used once, on the loop that feeds the stream."""

    def __init__(
        self,
        reader: FrameSource,
        encoder: Encoder,
        send: Send,
        *,
        heartbeat_s: float,
        reader_stall_timeout_s: float,
    ) -> None:
        self._reader = reader
        self._encoder = encoder
        self._send = send
        self._send_middle = innermost_send(send)
        self._chunks = chunked_body(send)
        self._heartbeat_s = heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._outlet = Outlet(
            reader_stall_timeout_s=reader_stall_timeout_s,
            on_free=self._on_ready,
            on_stalled=self._note_stalled,
        )
        self._beat_timer: asyncio.TimerHandle | None = None
        self._wrote_s = self._loop.time()
        self._cursor = "0"
        self._broken = False

    async def run(self, send: Send, head: Message, receive: Receive) -> None:
        """Sends `head` through `send` and then the frames. Returns when the body is closed, or must not be closed cleanly.

        Raises what `send` raised, unless it was an `OSError`, which is a client that went away. After cancellation nothing
        more is written.
        """
        watch: asyncio.Task[None] | None = None
        self._reader.on_ready = self._on_ready
        try:
            self._outlet.drive(send, head, self._written)
            self._on_ready()
            if not self._outlet.over.done():
                watch = self._loop.create_task(self._watch(receive))
                self._beat_timer = self._loop.call_later(self._heartbeat_s, self._beat)
            await self._outlet.over
        finally:
            self._reader.on_ready = None
            self._outlet.close()
            for waiting in (self._beat_timer, watch):
                if waiting is not None:
                    waiting.cancel()

    def _on_ready(self) -> None:
        """Writes all that is ready, unless an earlier write still waits for the socket. Never raises."""
        if self._reader.cut:
            self._outlet.end()
        if not self._outlet.free:
            return
        body = self._next_body()
        last = self._broken or self._reader.ended
        if self._broken and not body:
            self._outlet.end()
        elif body or last:
            self._write(body, last=last)

    def _next_body(self) -> bytes:
        """The bytes of the frames that are ready; those of an error frame if they can't be made."""
        try:
            frames = self._reader.take()
            if not frames:
                return b""
            self._cursor = frames[-1].cursor
            return self._encoder.encode(frames)
        except Exception:
            logger.exception("the frames of stream %s could not be made", self._reader.stream_id)
            self._broken = True
            return self._failure()

    def _failure(self) -> bytes:
        error = InternalError("The server failed to write this stream.")
        try:
            return self._encoder.encode([error_frame(self._cursor, error)])
        except Exception:
            logger.exception("the error of stream %s could not be written: cutting", self._reader.stream_id)
            return b""

    def _write(self, body: bytes, *, last: bool = False) -> None:
        if not last and self._write_chunk(body):
            return
        message = {"type": "http.response.body", "body": body, "more_body": not last}
        if last:
            self._outlet.drive(self._send, message, self._outlet.end)
        else:
            self._outlet.drive(self._send_middle, message, self._written)

    def _write_chunk(self, body: bytes) -> bool:
        """Writes `body` past the server's `send`; false when that can't be, and nothing was written. Never raises."""
        if self._chunks is None:
            return False
        try:
            written = self._chunks.write(body)
        except Exception as error:
            self._outlet.end(error)
            return True
        if written:
            self._wrote_s = self._loop.time()
        return written

    def _written(self) -> None:
        self._wrote_s = self._loop.time()

    def _note_stalled(self) -> None:
        logger.info("the reader of stream %s stands still: cutting its connection", self._reader.stream_id)

    def _beat(self) -> None:
        """Writes a heartbeat if there was nothing else to write, and sees when the next may be due."""
        remaining_s = self._wrote_s + self._heartbeat_s - self._loop.time()
        if remaining_s <= _TIMER_SLACK_S:
            remaining_s = self._heartbeat_s
            if self._outlet.free:
                self._write(self._encoder.heartbeat)
        if not self._outlet.over.done():
            self._beat_timer = self._loop.call_later(remaining_s, self._beat)

    async def _watch(self, receive: Receive) -> None:
        """Ends the delivery when the client goes away. Servers that cancel the request instead need it not."""
        try:
            await disconnected(receive)
        except Exception:
            logger.exception(
                "lost track of the client of stream %s: receive() failed", self._reader.stream_id
            )
        self._outlet.end()


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
