"""A call between two processes: a request and its reply. The three conversations share this form.

A module of this package is a conversation. It has a class for each request, their union, and the decoder of that union. A
request's class names the type of its result: `class EncodeText(Request[list[int]])`. The reply is `Done` with the result, or an
`ErrorReply`: an exception would carry internal text.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import cache
from typing import Any, Generic, TypeVar, get_args

import msgspec

from app.errors import ServiceError, error_class

Result = TypeVar("Result")


class Request(msgspec.Struct, Generic[Result], frozen=True, array_like=True):
    """The base of all requests. A subclass names its result's type, and has a tag that is unique in its conversation."""


class Done(msgspec.Struct, Generic[Result], frozen=True, array_like=True, tag="done"):
    """The call has succeeded."""

    result: Result


class ErrorReply(msgspec.Struct, frozen=True, array_like=True, tag="error"):
    """The call has raised the `ServiceError` of this `code`. `message` is for the client."""

    code: str
    message: str
    param: str | None
    retry_after_s: int | None

    @classmethod
    def of(cls, error: ServiceError) -> ErrorReply:
        return cls(error.code, error.message, error.param, error.retry_after_s)

    def error(self) -> ServiceError:
        """The error again; an `InternalError` for a code that this version does not know."""
        return error_class(self.code)(self.message, param=self.param, retry_after_s=self.retry_after_s)


encode = msgspec.msgpack.Encoder().encode


async def answer(work: Awaitable[object]) -> bytes:
    """The encoded reply of a call: the result of `work`, or the `ServiceError` that it raises."""
    try:
        return encode(Done(await work))
    except ServiceError as error:
        return encode(ErrorReply.of(error))


def decode_reply(request: Request[Result], reply: bytes) -> Result:
    """The result of `request`. Raises the `ServiceError` of an `ErrorReply`, and `msgspec.DecodeError` for anything else."""
    decoded: Done[Result] | ErrorReply = _reply_decoder(type(request)).decode(reply)
    if isinstance(decoded, ErrorReply):
        raise decoded.error()
    return decoded.result


@cache
def _reply_decoder(request_class: type[Request[Any]]) -> msgspec.msgpack.Decoder[Any]:
    [result] = get_args(request_class.__orig_bases__[0])  # type: ignore[attr-defined]  # of every subclass of a generic class
    done: Any = Done  # the type checker knows no types that are made at run time
    return msgspec.msgpack.Decoder(done[result] | ErrorReply)
