"""The tokenizer as an ingress sees it: what becomes of calls that fail."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from app.errors import GeneratorUnavailable, InternalError, Overloaded, PromptTooLong, ServiceError
from deployments.ingress.tokenizer_client import TokenizerClient
from deployments.links.link import LinkBroken, LinkBusy, LinkFailed
from deployments.messages.refusal import refusal
from deployments.messages.tokenizer import EncodeCall, Encoded, EncodeText, decode_call
from tests.fakes.link import LocalLink
from tests.fakes.requests import request


class NoHandle:
    """A deployment handle that nobody calls."""

    def options(self, **_: object) -> NoHandle:
        return self


async def encode(data: bytes) -> bytes:
    """Gives the bytes of a prompt or of a text as its ids."""
    call: EncodeCall = decode_call(data)
    prompt = call.text if isinstance(call, EncodeText) else call.request.prompt or ""
    if prompt == "long":
        return msgspec.msgpack.encode(refusal(PromptTooLong("Too long.", param="prompt")))
    return msgspec.msgpack.encode(Encoded(list(prompt.encode())))


def client(link: LocalLink) -> TokenizerClient:
    return TokenizerClient(NoHandle(), link)  # type: ignore[arg-type]


def encoded(prompt: str, *failures: Exception) -> list[int]:
    link = LocalLink(encode)
    link.failures.extend(failures)
    ids = asyncio.run(client(link).encode(request(prompt)))
    assert not link.failures
    return ids


def test_a_prompt_becomes_ids() -> None:
    assert encoded("ab") == [97, 98]


def test_a_piece_of_text_becomes_ids() -> None:
    assert asyncio.run(client(LocalLink(encode)).encode_text("né")) == list("né".encode())


def test_a_refusal_arrives_as_it_was() -> None:
    with pytest.raises(PromptTooLong) as raised:
        encoded("long")
    assert raised.value.param == "prompt"


def test_a_call_that_breaks_is_made_once_more() -> None:
    assert encoded("ab", LinkBroken()) == [97, 98]
    with pytest.raises(GeneratorUnavailable):
        encoded("ab", LinkBroken(), LinkBroken())


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (LinkBusy(), Overloaded),
        (TimeoutError(), GeneratorUnavailable),
        (LinkFailed(), InternalError),
        (ValueError("secret text"), InternalError),
    ],
)
def test_a_failure_has_its_error(failure: Exception, error: type[ServiceError]) -> None:
    with pytest.raises(error) as raised:
        encoded("ab", failure)
    assert "secret" not in raised.value.message
