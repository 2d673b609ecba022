"""Replies: every error survives the way between two processes."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from app import errors
from app.errors import InternalError, InvalidRequest, ServiceError
from deployments.messages.call import ErrorReply, Request, answer, decode_reply, encode

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ServiceError)
]


class Ask(Request[list[int]], frozen=True, array_like=True, tag="ask"):
    pass


@pytest.mark.parametrize(
    "error_class", [each for each in CLASSES if each not in (ServiceError, InternalError)]
)
def test_every_error_survives_the_way(error_class: type[ServiceError]) -> None:
    reply = encode(ErrorReply.of(error_class("Because.", param="prompt", retry_after_s=3)))
    with pytest.raises(error_class) as raised:
        decode_reply(Ask(), reply)
    error = raised.value
    assert type(error) is error_class
    assert (error.message, error.param, error.retry_after_s) == ("Because.", "prompt", 3)


def test_an_unknown_code_is_an_internal_error() -> None:
    with pytest.raises(InternalError) as raised:
        decode_reply(Ask(), encode(ErrorReply("of_tomorrow", "Because.", None, None)))
    assert raised.value.message == "Because."


def test_an_answer_is_the_result_or_the_error() -> None:
    async def ids() -> list[int]:
        return [1, 2]

    async def refuse() -> list[int]:
        raise InvalidRequest("Because.")

    async def main() -> None:
        assert decode_reply(Ask(), await answer(ids())) == [1, 2]
        with pytest.raises(InvalidRequest, match="Because"):
            decode_reply(Ask(), await answer(refuse()))

    asyncio.run(main())


def test_a_reply_of_another_type_is_no_reply() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_reply(Ask(), encode("text"))
