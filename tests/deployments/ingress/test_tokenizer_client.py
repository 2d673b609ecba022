"""The tokenizer as an ingress sees it: what becomes of calls that fail."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import GeneratorUnavailable, InternalError, Overloaded, PromptTooLong, ServiceError
from deployments.ingress.tokenizer_client import TokenizerClient
from deployments.links.link import LinkBroken, LinkBusy, LinkFailed
from deployments.messages.call import Done, ErrorReply
from deployments.messages.call import encode as encode_message
from deployments.messages.tokenizer import Describe, EncodeText, decode_request
from tests.fakes.generator import FakeTokenizer
from tests.fakes.link import LocalLink
from tests.fakes.requests import request


async def encode(data: bytes) -> bytes:
    """Gives the bytes of a prompt or of a text as its ids."""
    call = decode_request(data)
    if isinstance(call, Describe):
        return encode_message(Done(FakeTokenizer().card))
    prompt = call.text if isinstance(call, EncodeText) else call.request.prompt or ""
    if prompt == "long":
        return encode_message(ErrorReply.of(PromptTooLong("Too long.", param="prompt")))
    return encode_message(Done(list(prompt.encode())))


def client(link: LocalLink) -> TokenizerClient:
    return TokenizerClient(link)


def encoded(prompt: str, *failures: Exception) -> list[int]:
    link = LocalLink(encode)
    link.failures.extend(failures)
    ids = asyncio.run(client(link).encode(request(prompt)))
    assert not link.failures
    return ids


def test_the_model_is_described() -> None:
    assert asyncio.run(client(LocalLink(encode)).describe()) == FakeTokenizer().card


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
