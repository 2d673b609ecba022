"""The service `streaming_inference.v1.Generation`, for Serve's gRPC ingress.

Serve calls the methods of a replica and sends what they yield. With one event loop (HAProxy, direct ingress) it asks for the next
message when the transport has taken the last one, so that a client that does not read holds up its stream; in Serve's default
mode it takes all there is at once, and the proxy keeps what the client does not read.

Endings, whichever comes first:

    the terminal frame was sent           OK, or the status of the error frame
    the call is cancelled, its deadline
    passes, or its connection breaks      the reader is closed: `on_disconnect` of the stream decides
    the client stood still for too long   the same, and DEADLINE_EXCEEDED if it reads on after all
    frames could not be made              an error frame and its status
    the reader was cut off                UNAVAILABLE without a terminal frame: the stream goes on elsewhere
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

import grpc
from starlette.datastructures import Headers

from app.conversation import Conversation
from app.dialects.native import service_error
from app.errors import BodyTooLarge, InternalError, ServiceError
from app.idempotency import idempotency_key
from app.opening import cancel_stream, open_stream, pulled_frames, reopen_stream
from app.proto import generation_pb2 as pb
from app.schema.client_messages import MAX_NAME_LENGTH
from app.schema.frames import Error, error_frame
from app.service import GenerationService
from app.streams.reader import Reader
from app.validation import parse_message
from app.wire.grpc import (
    to_addressed_message,
    to_body,
    to_cancel,
    to_cancel_reply,
    to_client_message,
    to_message,
    to_resume,
    to_status,
)
from deployments.ingress.stall_timer import StallTimer

logger = logging.getLogger(__name__)


class CallContext(Protocol):
    """What is used of the context that Serve gives to a call."""

    def invocation_metadata(self) -> Any: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, trailing_metadata: Any) -> None: ...


class GenerationServicer:
    """The calls of the service over `service`.

    `raises`: whoever runs the calls sees the status of one without messages only if it raises, as Serve's default mode does.
    """

    def __init__(self, service: GenerationService, *, raises: bool) -> None:
        self._service = service
        self._raises = raises
        self._reader_stall_timeout_s = service.settings.limits.reader_stall_timeout_s

    async def generate(
        self, request: pb.GenerateRequest, context: CallContext
    ) -> AsyncGenerator[pb.Frame, None]:
        """Starts a stream; its frames."""
        try:
            headers = _headers(context)
            owner = self._service.owner_of(headers)
            self._check_size(request)
            stream = await open_stream(self._service, to_body(request), owner, idempotency_key(headers))
            if stream.request.detach:
                return _messages(to_message(stream.start))
            return self._frames(await self._service.read(stream), context)
        except Exception as error:
            self._fail(context, error)
            return _messages()

    async def resume(self, request: pb.ResumeRequest, context: CallContext) -> AsyncGenerator[pb.Frame, None]:
        """The frames of a stream after a cursor."""
        try:
            owner = self._service.owner_of(_headers(context))
            reader = await reopen_stream(self._service, to_resume(request), owner)
            return self._frames(reader, context)
        except Exception as error:
            self._fail(context, error)
            return _messages()

    async def cancel(self, request: pb.CancelRequest, context: CallContext) -> pb.CancelReply:
        """Cancels a stream."""
        try:
            owner = self._service.owner_of(_headers(context))
            status = await cancel_stream(self._service, to_cancel(request), owner)
            return to_cancel_reply(status)
        except Exception as error:
            _set_status(context, _foreseen(error))
            return pb.CancelReply()

    async def converse(
        self, messages: AsyncIterator[pb.ClientMessage], context: CallContext
    ) -> AsyncGenerator[pb.Frame, None]:
        """Many streams on one call."""
        try:
            owner = self._service.owner_of(_headers(context))
            return self._conversation(owner, messages, context)
        except Exception as error:
            self._fail(context, error)
            return _messages()

    async def _frames(self, reader: Reader, context: CallContext) -> AsyncGenerator[pb.Frame, None]:
        try:
            with StallTimer(self._reader_stall_timeout_s, reader.close) as stall:
                async with aclosing(_whole(reader, context)) as messages:
                    async for message in messages:
                        stall.begin()
                        yield message
                        stall.end()
        except Exception as error:
            self._fail(context, error)

    async def _conversation(
        self, owner: str, messages: AsyncIterator[pb.ClientMessage], context: CallContext
    ) -> AsyncGenerator[pb.Frame, None]:
        conversation = Conversation(self._service, owner)
        listening = asyncio.ensure_future(self._listen(conversation, messages))
        ready = asyncio.Event()
        conversation.on_ready = ready.set
        leaving: list[asyncio.Future[None]] = []

        def leave() -> None:
            listening.cancel()
            leaving.append(asyncio.ensure_future(conversation.close()))

        try:
            with StallTimer(self._reader_stall_timeout_s, leave) as stall:
                while not conversation.at_end:
                    ready.clear()
                    for addressed in conversation.take():
                        message = to_addressed_message(addressed)
                        stall.begin()
                        yield message
                        stall.end()
                    if conversation.ending is not None:
                        raise conversation.ending
                    if not conversation.at_end:
                        await ready.wait()
        except Exception as error:
            self._fail(context, error)
        finally:
            listening.cancel()
            await conversation.close()
            await asyncio.gather(*leaving)

    async def _listen(self, conversation: Conversation, messages: AsyncIterator[pb.ClientMessage]) -> None:
        """Hands over what the client says, to its last message."""
        try:
            async for message in messages:
                said: dict[str, Any] = {}
                try:
                    self._check_size(message)
                    said = to_client_message(message)
                    conversation.accept(parse_message(said))
                except ServiceError as error:
                    conversation.refuse(error, ref=_name(said, "ref"), stream=_name(said, "stream"))
        except Exception:
            logger.exception("the messages of a call can't be read any more")
        await conversation.finish()

    def _check_size(self, message: pb.GenerateRequest | pb.ClientMessage) -> None:
        most = self._service.settings.limits.max_message_bytes
        if message.ByteSize() > most:
            raise BodyTooLarge(f"The message must have at most {most} bytes.")

    def _fail(self, context: CallContext, error: Exception) -> None:
        """Gives the call the status of the error that ends it."""
        failure = _foreseen(error)
        _set_status(context, failure)
        if self._raises:
            raise failure


async def _whole(reader: Reader, context: CallContext) -> AsyncGenerator[pb.Frame, None]:
    """What the reader takes, with an error frame at the end if that can't be made. An error frame sets the status."""
    try:
        async with aclosing(pulled_frames(reader)) as frames:
            async for frame in frames:
                if isinstance(frame, Error):
                    _set_status(context, service_error(frame.error))
                yield to_message(frame)
    except ServiceError:
        raise
    except Exception:
        logger.exception("the frames of stream %s could not be made", reader.stream.id)
        error = InternalError("The server failed to write this stream.")
        _set_status(context, error)
        yield to_message(error_frame(reader.cursor, error))


async def _messages(*messages: pb.Frame) -> AsyncGenerator[pb.Frame, None]:
    for message in messages:
        yield message


def _headers(context: CallContext) -> Headers:
    """The metadata of a call, without what is binary."""
    pairs = [(name, value) for name, value in context.invocation_metadata() if isinstance(value, str)]
    return Headers(raw=[(name.lower().encode(), value.encode()) for name, value in pairs])


def _foreseen(error: Exception) -> ServiceError:
    """What the client is told of `error`: nothing of an unexpected one."""
    if isinstance(error, ServiceError):
        return error
    logger.exception("a call broke")
    return InternalError("The server failed to handle the call.")


def _set_status(context: CallContext, error: ServiceError) -> None:
    status = to_status(error)
    context.set_code(grpc.StatusCode[status.code])
    context.set_details(status.details)
    context.set_trailing_metadata(status.metadata)


def _name(said: dict[str, Any], field: str) -> str | None:
    """A name that the client gave, unless it is too long to be one."""
    name = said.get(field)
    return name if name and len(name) <= MAX_NAME_LENGTH else None
