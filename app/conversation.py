"""A conversation: one connection on which a client starts, reads and steers many streams.

It belongs to no protocol. Messages of the client go in by `accept`, what the client is to be sent comes out of `take`; both are
synchronous, and nothing is done per token but what the readers of the streams do themselves. Whatever is wrong with a message
is answered by a reply; the connection goes on. Messages that name the same stream are carried out in their order.

Everything is bounded: the streams of a connection, the messages in progress, the replies that were not taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from app.errors import (
    InternalError,
    InvalidCursor,
    InvalidRequest,
    Overloaded,
    ServiceError,
    StreamNotFound,
    TooManyStreams,
    draining,
)
from app.schema.client_messages import (
    Ack,
    ClientMessage,
    Generate,
    Ping,
    Resume,
    Steer,
    Stop,
    StreamMessage,
    Update,
)
from app.schema.frames import Frame, Start, error_frame
from app.schema.server_messages import Addressed, Pong, error_reply
from app.service import GenerationService
from app.streams.reader import Reader

logger = logging.getLogger(__name__)

_RETRY_AFTER_S = 1


class _Reading:
    """A stream that is read on this connection. `cursor` is that of the last frame that was taken."""

    def __init__(self, reader: Reader, ref: str | None) -> None:
        self.reader = reader
        self.ref = ref
        self.cursor = reader.cursor


class Conversation:
    """The streams of one connection of `owner`.

    `on_ready` is called, synchronously, whenever there may be something new to take. `ending` is set when the connection must
    end, with the reason; after that `take` may have something for a last time, and nothing is accepted any more.
    """

    def __init__(self, service: GenerationService, owner: str) -> None:
        self.on_ready: Callable[[], None] | None = None
        self.ending: ServiceError | None = draining() if service.closing else None
        self._service = service
        self._owner = owner
        self._limits = service.settings.limits
        self._readings: dict[str, _Reading] = {}
        self._ready: dict[str, _Reading] = {}
        # Streams that ended here, so that an ack that was on its way is no mistake. The oldest are forgotten.
        self._left: dict[str, None] = {}
        self._replies: list[Addressed] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._openings: set[asyncio.Task[None]] = set()
        self._latest: dict[str, asyncio.Task[None]] = {}
        self._opening = 0
        self._closed = False
        self._finished = False
        service.on_close.add(self._drain)

    # What the connection says.

    def accept(self, message: ClientMessage) -> None:
        """Begins to do what the message asks for. Raises nothing: what is wrong with it becomes a reply."""
        if self.ending is not None or self._closed:
            return
        if isinstance(message, Ping):
            self._reply(Addressed(Pong(), ref=message.ref))
        elif isinstance(message, Ack) and message.stream not in self._latest:
            try:
                self._acknowledge(message)
            except ServiceError as error:
                self._refuse(message, error)
        elif len(self._tasks) >= self._limits.max_pending_messages:
            self._refuse(message, _too_busy(self._limits.max_pending_messages))
        elif isinstance(message, Generate | Resume):
            most = self._limits.max_streams_per_connection
            if len(self._readings) + self._opening >= most:
                too_many = TooManyStreams(
                    f"This connection already has {most} open streams, the maximum.",
                    retry_after_s=_RETRY_AFTER_S,
                )
                self._refuse(message, too_many)
                return
            self._opening += 1
            task = self._spawn(message)
            self._openings.add(task)
            task.add_done_callback(self._openings.discard)
        else:
            self._spawn(message)

    def refuse(self, error: ServiceError, *, ref: str | None = None, stream: str | None = None) -> None:
        """Replies with `error` to a message that did not get as far as `accept`."""
        if self.ending is None and not self._closed:
            self._reply(Addressed(error_reply(error), stream, ref))

    async def finish(self) -> None:
        """No more messages will come: `at_end` from when those that came are carried out and no stream is read any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._finished = True
        self._notify()

    @property
    def at_end(self) -> bool:
        """Whether nothing will come any more from `take`, after `finish`."""
        return self._finished and not self._readings and not self._replies

    def take(self) -> list[Addressed]:
        """What became ready since the last call: replies, and the frames of all streams, in their order for each stream."""
        if not self._ready and not self._replies:
            return []
        taken, self._replies = self._replies, []
        ready, self._ready = self._ready, {}
        for stream_id, reading in ready.items():
            for frame in self._frames(stream_id, reading):
                ref = reading.ref if type(frame) is Start else None
                taken.append(Addressed(frame, stream_id, ref))
        return taken

    async def close(self) -> None:
        """Leaves the streams to their `on_disconnect`, opens no more, and returns when the other messages are carried out.

        The first two happen at once, also when the caller is cancelled. Idempotent.
        """
        self._closed = True
        self.on_ready = None
        self._service.on_close.discard(self._drain)
        for task in self._openings:
            task.cancel()
        for stream_id in tuple(self._readings):
            self._leave(stream_id)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Messages.

    def _spawn(self, message: Generate | StreamMessage) -> asyncio.Task[None]:
        """Carries the message out in a task, after what earlier messages asked of the same stream."""
        name = _stream_of(message)
        earlier = None if name is None else self._latest.get(name)
        task = asyncio.get_running_loop().create_task(self._work(message, earlier))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if name is not None:
            self._latest[name] = task

            def forget(done: asyncio.Task[None]) -> None:
                if self._latest.get(name) is done:
                    del self._latest[name]

            task.add_done_callback(forget)
        return task

    async def _work(self, message: Generate | StreamMessage, earlier: asyncio.Task[None] | None) -> None:
        try:
            if earlier is not None:
                await asyncio.wait((earlier,))
            await self._carry_out(message)
        except ServiceError as error:
            self._refuse(message, error)
        except Exception:
            logger.exception("a message of the type %s broke", message.type)
            self._refuse(message, InternalError("The server failed to handle the message."))
        finally:
            if isinstance(message, Generate | Resume):
                self._opening -= 1

    async def _carry_out(self, message: Generate | StreamMessage) -> None:
        service, owner = self._service, self._owner
        if isinstance(message, Generate):
            await self._generate(message)
        elif isinstance(message, Resume):
            if message.stream in self._readings:
                raise InvalidRequest("The connection reads this stream already.", param="stream")
            reader = await service.resume(message.stream, message.after, owner, message.window)
            self._attach(reader, message.ref)
        elif isinstance(message, Ack):
            self._acknowledge(message)
        elif isinstance(message, Update):
            await service.add_stops(message.stream, message.stop, owner)
        elif isinstance(message, Steer):
            await service.steer(message.stream, message.text, owner)
        elif isinstance(message, Stop):
            await service.stop(message.stream, owner)
        else:
            await service.cancel(message.stream, owner)

    async def _generate(self, message: Generate) -> None:
        settings = self._service.settings
        request = message.to_request(settings.limits, settings.default_model)
        if not message.stream:
            raise InvalidRequest("stream must be true here: the answer comes as frames.", param="stream")
        if message.detach and message.window is not None:
            raise InvalidRequest("window goes with frames, and detach asks for none.", param="window")
        stream = await self._service.start(request, self._owner)
        if message.detach:
            self._reply(Addressed(stream.start, stream.id, message.ref))
        else:
            self._attach(await self._service.read(stream, window_tokens=message.window), message.ref)

    def _acknowledge(self, message: Ack) -> None:
        reading = self._readings.get(message.stream)
        if reading is not None:
            try:
                reading.reader.acknowledge(message.cursor)
            except InvalidCursor as error:
                raise InvalidCursor(error.message, param="cursor") from None
        elif message.stream not in self._left:
            raise StreamNotFound("The connection does not read this stream.", param="stream")

    # Replies.

    def _refuse(self, message: ClientMessage, error: ServiceError) -> None:
        self.refuse(error, ref=message.ref, stream=_stream_of(message))

    def _reply(self, reply: Addressed) -> None:
        if self._closed:
            return
        if len(self._replies) >= self._limits.max_pending_messages:
            self._end(_too_busy(self._limits.max_pending_messages))
            return
        self._replies.append(reply)
        self._notify()

    # Streams.

    def _attach(self, reader: Reader, ref: str | None) -> None:
        stream_id = reader.stream.id
        if self._closed:
            reader.close()
            return
        reading = self._readings[stream_id] = _Reading(reader, ref)

        def ready() -> None:
            self._ready[stream_id] = reading
            self._notify()

        reader.on_ready = ready
        ready()

    def _frames(self, stream_id: str, reading: _Reading) -> list[Frame]:
        """What is ready of one stream. A stream whose frames can't be made ends here, with an error frame, and alone."""
        reader = reading.reader
        if reader.cut:
            self.ending = self.ending or draining()
            return []
        try:
            frames = reader.take()
        except Exception:
            logger.exception("the frames of stream %s could not be made", stream_id)
            self._leave(stream_id)
            return [error_frame(reading.cursor, InternalError("The server failed to write this stream."))]
        if frames:
            reading.cursor = frames[-1].cursor
        if reader.ended:
            self._leave(stream_id)
        return frames

    def _leave(self, stream_id: str) -> None:
        self._readings.pop(stream_id).reader.close()
        self._ready.pop(stream_id, None)
        self._left[stream_id] = None
        if len(self._left) > self._limits.max_streams_per_connection:
            del self._left[next(iter(self._left))]

    # The end.

    def _drain(self) -> None:
        self._end(draining())

    def _end(self, error: ServiceError) -> None:
        if self.ending is None:
            self.ending = error
            self._notify()

    def _notify(self) -> None:
        if self.on_ready is not None:
            self.on_ready()


def _stream_of(message: ClientMessage) -> str | None:
    return None if isinstance(message, Generate | Ping) else message.stream


def _too_busy(most: int) -> Overloaded:
    return Overloaded(
        f"This connection already has {most} unanswered messages, the maximum.",
        retry_after_s=_RETRY_AFTER_S,
    )
