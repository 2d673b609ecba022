"""A stream as a client reads it: over as many connections as it takes, each frame once."""

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
"""How long leaving may take. A server that does not answer finds out by itself that nobody reads."""
T = TypeVar("T")


def stream_path(stream: str) -> str:
    """Where the stream of this name is."""
    return f"/v1/streams/{quote(stream, safe='')}"


@dataclass(frozen=True)
class Opening:
    """What a stream is asked for with: a request (`body`, JSON), or the name of a stream and a cursor of it."""

    body: bytes | None = None
    idempotency_key: str = ""
    stream: str | None = None
    after: str | None = None


class GenerationStream:
    """One stream. Made by `Client.generate` and `Client.resume`, which send nothing yet.

        async with client.generate(prompt="Once upon a time") as stream:
            async for text in stream.text():
                print(text, end="")

    `async with` opens it: inside, `id` is known. Whatever leaves the block before the end of the stream (an exception, a
    cancelled task, `break`) cancels the stream on the server, so that it costs nobody anything; `on_exit="leave"` lets it go on.
    Without `async with` the same holds for the iterator: it opens the stream, and cancels it when it is closed.

    A connection that breaks is made again and goes on behind the last frame. All ways to read share one position, and one may
    read at a time. Every one of them raises the errors of `streaming_inference.errors`.
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
        self.connections = 0
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

    # What is known so far.

    @property
    def start(self) -> Start | None:
        """The first frame, once it has come; a stream that is resumed behind a cursor never sees it."""
        return self._transcript.start

    @property
    def end(self) -> End | None:
        """The last frame, once it has come."""
        return self._transcript.end

    @property
    def cursor(self) -> str | None:
        """Behind the last frame that was taken: `Client.resume(stream.id, stream.cursor)` goes on from there."""
        return self._transcript.cursor

    # Reading.

    async def open(self) -> None:
        """Returns when the server has accepted the stream. Idempotent; `async with` does it.

        Cancelled meanwhile, it leaves nothing on the server, or a stream that ends by itself because nobody reads it.
        """
        self._check_open()
        if not self._opened:
            await self._persist(self._connected)
            self._opened = True

    async def next(self) -> Frame | None:
        """The next frame; None behind the last one. A call that is cancelled takes nothing.

        The frame `end` is given only when everything is proved: no gap, no repetition, and the right hash.
        """
        if self._transcript.ended:
            return None
        self._check_open()
        if self._reading:
            raise RuntimeError("the stream is being read already")
        self._reading = True
        try:
            if not self._frames:
                await self._persist(self._received)
            return self._take(self._frames.popleft())
        except ProtocolError:
            await self._disconnect()
            raise
        finally:
            self._reading = False

    async def __aiter__(self) -> AsyncGenerator[Frame, None]:
        """The frames from here to the terminal one. An `error` frame is given, and then raised as `GenerationFailed`."""
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
        """The text of one choice from here on, as it comes; never empty strings.

        `smooth` plays it out evenly, a little later, when the way from the server is jittery; see `streaming_inference.jitter`.
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
        """Reads on to the end and returns the whole. Raises `GenerationFailed` when it ended with an error."""
        async with aclosing(self.__aiter__()) as frames:
            async for _ in frames:
                pass
        assert self.id is not None, "a stream that has ended has a name"
        return self._transcript.result(self.id)

    # Leaving.

    async def cancel(self) -> None:
        """Ends the stream on the server, now. What comes then is what was on its way, and the frame `end`."""
        await self.open()
        if self.id is not None and not self._transcript.ended:
            await self._cancel(self.id)

    async def aclose(self) -> None:
        """Reads no more; cancels the stream unless it has ended or was to be left. Idempotent.

        Raises nothing: a server that can't be told finds out by itself that nobody reads the stream. Goes on in the background
        when it is cancelled.
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
        """Tries until it succeeds or makes no sense any more. No connection that has failed is used again."""
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
            self._connection = await self._connect()
            self.connections += 1
            self.id = self.id or self._connection.stream_id
        return self._connection

    async def _connect(self) -> EventConnection:
        opening = self._opening
        if self.id is None:
            # The key makes sure that a request whose answer was lost does not start a second stream.
            key = opening.idempotency_key
            return await self._http.events("POST", "/v1/streams", opening.body, Idempotency_Key=key)
        cursor = self._transcript.cursor
        query = "" if cursor is None else f"?after={cursor}"
        return await self._http.events("GET", f"{stream_path(self.id)}/events{query}")

    async def _received(self) -> None:
        """Waits for frames. They are news, as each connection begins behind the last one that was taken."""
        while not self._frames:
            connection = await self._connected()
            self._opened = True
            self._frames.extend(await connection.receive())
        self._retries.succeeded()

    def _take(self, frame: Frame) -> Frame:
        try:
            if isinstance(frame, Start):
                self._take_name(frame.stream)
            self._transcript.take(frame)
        except ProtocolError as error:
            raise self._located(error) from None
        return frame

    def _take_name(self, name: str) -> None:
        self.id = self.id or name
        if self.id != name:
            raise ProtocolError(f"The stream {name[:80]!r} came instead of {self.id}.")

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
        """Lets go of the connection, and of what it brought that was not taken: the next one brings it again."""
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
