"""A stream as a client reads it: each frame once, over any number of connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeVar
from urllib.parse import quote

from streaming_inference.background import Background
from streaming_inference.clock import Clock
from streaming_inference.errors import ClientError, GenerationFailed, ProtocolError, StreamClosed
from streaming_inference.frames import Delta, End, Frame, Start
from streaming_inference.http import EventConnection, Http
from streaming_inference.jitter import Piece, play
from streaming_inference.retry import Retries
from streaming_inference.transcript import Result, Transcript

OnExit = Literal["cancel", "leave"]
LEAVE_TIMEOUT_S = 5.0
"""How long the cancelling of a stream may take. A server that does not answer notices later that the stream has no reader."""
T = TypeVar("T")


def stream_path(stream: str) -> str:
    """The path of the stream of this name."""
    return f"/v1/streams/{quote(stream, safe='')}"


@dataclass(frozen=True)
class Opening:
    """How a stream is opened: with a request (`body`, JSON), or with the name of a stream and a cursor of it."""

    body: bytes | None = None
    idempotency_key: str = ""
    stream: str | None = None
    after: str | None = None


class GenerationStream:
    """One stream. `Client.generate` and `Client.resume` return it; they send nothing.

        async with client.generate(prompt="Once upon a time") as stream:
            async for text in stream.text():
                print(text, end="")

    `async with` opens it: inside, `id` is known. A block that is left before the end of the stream (by an exception, a
    cancelled task or `break`) cancels the stream on the server; `on_exit="leave"` lets it go on. Without `async with` the
    same holds for the iterator: it opens the stream, and cancels it when it is closed.

    A connection that breaks is replaced, and reading goes on after the last frame. All ways to read share one position, and
    one may read at a time. Each raises the errors of `streaming_inference.errors`.
    """

    def __init__(
        self,
        http: Http,
        opening: Opening,
        retries: Retries,
        *,
        on_exit: OnExit,
        clock: Clock,
        cancel: Callable[[str], Awaitable[object]],
        background: Background,
    ) -> None:
        self.id: str | None = opening.stream
        """The name of the stream, once it is known."""
        self.connections = 0
        """How many connections have carried it so far."""
        self._http = http
        self._opening = opening
        self._retries = retries
        self._on_exit = on_exit
        self._clock = clock
        self._cancel = cancel
        self._background = background
        self._transcript = Transcript(opening.after)
        self._connection: EventConnection | None = None
        self._frames: deque[Frame] = deque()
        self._opened = False
        self._closed = False
        self._reading = False

    # State.

    @property
    def start(self) -> Start | None:
        """The first frame, once it has come. A stream that is resumed after a cursor does not have it."""
        return self._transcript.start

    @property
    def end(self) -> End | None:
        """The last frame, once it has come."""
        return self._transcript.end

    @property
    def cursor(self) -> str | None:
        """The cursor of the last frame that was read: `Client.resume(stream.id, stream.cursor)` goes on after it."""
        return self._transcript.cursor

    # Reading.

    async def open(self) -> None:
        """Returns when the server has accepted the stream. Idempotent; `async with` does it.

        A cancelled call leaves nothing on the server, or a stream that ends by itself because it has no reader.
        """
        self._check_open()
        if not self._opened:
            await self._persist(self._connected)
            self._opened = True

    async def next(self) -> Frame | None:
        """The next frame; None after the last one. A call that is cancelled takes nothing.

        The frame `end` is returned only if no frame is missing or repeated, and the text has the server's hash.
        """
        if self._transcript.ended:
            return None
        self._check_open()
        if self._reading:
            raise RuntimeError("the stream is being read by another task; one task may read at a time")
        self._reading = True
        try:
            if not self._frames:
                await self._persist(self._received)
            frame = self._frames.popleft()
            if isinstance(frame, Start):
                self.id = self.id or frame.stream
                if self.id != frame.stream:
                    raise ProtocolError(
                        f"The server sent the stream {frame.stream[:80]!r} instead of {self.id}."
                    )
            self._transcript.take(frame)
            return frame
        except ProtocolError as error:
            await self._disconnect()
            self._located(error)
            raise
        finally:
            self._reading = False

    async def __aiter__(self) -> AsyncGenerator[Frame, None]:
        """The frames from here to the terminal one. An `error` frame is yielded, then raised as `GenerationFailed`."""
        owns = not self._opened
        try:
            while (frame := await self.next()) is not None:
                yield frame
            if self._transcript.error is not None:
                raise self._located(GenerationFailed(self._transcript.error.error))
        finally:
            if owns:
                await self.aclose()

    async def text(self, index: int = 0, *, smooth: bool = False) -> AsyncGenerator[str, None]:
        """The text of one choice from here on, as it comes; never an empty string.

        `smooth` plays it out evenly, a little later, if the network delivers it unevenly; see `streaming_inference.jitter`.
        """
        async with aclosing(self._pieces(index)) as pieces:
            if smooth:
                async with aclosing(play(pieces, self._clock)) as played:
                    async for text in played:
                        yield text
            else:
                async for piece in pieces:
                    if piece.text:
                        yield piece.text

    async def result(self) -> Result:
        """Reads to the end and returns the whole. Raises `GenerationFailed` if the stream ends with an error."""
        async with aclosing(self.__aiter__()) as frames:
            async for _ in frames:
                pass
        assert self.id is not None, "a stream that has ended has a name"
        return self._transcript.result(self.id)

    # Leaving.

    async def cancel(self) -> None:
        """Ends the stream on the server. The frames that the server has already sent, and the frame `end`, can still be read."""
        await self.open()
        if self.id is not None and not self._transcript.ended:
            await self._cancel(self.id)

    async def aclose(self) -> None:
        """Stops reading; cancels the stream unless it has ended or `on_exit` is "leave". Idempotent.

        Raises nothing: a server that can't be reached notices later that the stream has no reader. When the caller is
        cancelled, this goes on in the background.
        """
        if self._closed:
            return
        self._closed = True
        await self._background.finish(self._leave())

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # Inside.

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeats `attempt` until it succeeds or its retries are used up. A connection that has failed is not used again."""
        while True:
            try:
                return await attempt()
            except ClientError as error:
                await self._disconnect()
                self._check_open()
                await self._retries.wait(self._located(error))
            except BaseException:
                await self._disconnect()
                raise

    async def _connected(self) -> EventConnection:
        if self._connection is None:
            if self.id is None:
                # With the key, a request whose answer was lost does not start a second stream.
                key = self._opening.idempotency_key
                made = await self._http.events("POST", "/v1/streams", self._opening.body, Idempotency_Key=key)
            else:
                cursor = self._transcript.cursor
                query = "" if cursor is None else f"?after={cursor}"
                made = await self._http.events("GET", f"{stream_path(self.id)}/events{query}")
            self._connection = made
            self.connections += 1
            self.id = self.id or made.stream_id
        return self._connection

    async def _received(self) -> None:
        """Waits for frames. All are new, because each connection begins after the last frame that was read."""
        while not self._frames:
            connection = await self._connected()
            self._opened = True
            self._frames.extend(await connection.receive())
        self._retries.succeeded()

    async def _pieces(self, index: int) -> AsyncGenerator[Piece, None]:
        async with aclosing(self.__aiter__()) as frames:
            async for frame in frames:
                if isinstance(frame, Delta) and frame.index == index:
                    yield Piece(frame.text, frame.tokens)

    async def _leave(self) -> None:
        await self._disconnect()
        if self.id is not None and self._on_exit == "cancel" and not self._transcript.ended:
            with suppress(ClientError, TimeoutError):
                async with asyncio.timeout(LEAVE_TIMEOUT_S):
                    await self._http.call("DELETE", stream_path(self.id))

    async def _disconnect(self) -> None:
        """Closes the connection and drops its frames that were not read: the next connection brings them again."""
        connection, self._connection = self._connection, None
        self._frames.clear()
        if connection is not None:
            await connection.aclose()

    def _located(self, error: ClientError) -> ClientError:
        error.stream, error.cursor = self.id, self._transcript.cursor
        return error

    def _check_open(self) -> None:
        if self._closed:
            raise self._located(StreamClosed())
