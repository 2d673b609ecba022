"""The tokenizer of one model as the ingress sees it: implements `app.ports.Tokenizer` over a deployment handle."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from ray.serve.handle import DeploymentHandle

from app.errors import GeneratorUnavailable
from app.ports import ModelCard
from app.schema.requests import GenerationRequest
from deployments.calls import serve_options
from deployments.faults import RETRY_AFTER_S, from_call
from deployments.refusal import Refused, from_refusal

DESCRIBE_TIMEOUT_S = 10.0
ENCODE_TIMEOUT_S = 30.0


class Encoded(msgspec.Struct, frozen=True, array_like=True, tag="encoded"):
    """The token ids of a prompt."""

    token_ids: list[int]


Encoding = Encoded | Refused

decode_encoding = msgspec.msgpack.Decoder(Encoding).decode
decode_card = msgspec.msgpack.Decoder(ModelCard).decode


class TokenizerClient:
    """The tokenizer deployment of one model. Cancelling a call cancels it on the other side."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        options = serve_options()
        self._describe = handle.options(method_name="describe", **options)
        self._encode = handle.options(method_name="encode", **options)
        self._encode_text = handle.options(method_name="encode_text", **options)

    async def describe(self) -> ModelCard:
        """See `app.ports.Tokenizer.describe`."""
        return decode_card(await _call(lambda: self._describe.remote(), DESCRIBE_TIMEOUT_S))

    async def encode(self, request: GenerationRequest) -> list[int]:
        """See `app.ports.Tokenizer.encode`."""
        payload = msgspec.msgpack.encode(request)
        return _token_ids(await _call(lambda: self._encode.remote(payload), ENCODE_TIMEOUT_S))

    async def encode_text(self, text: str) -> list[int]:
        """See `app.ports.Tokenizer.encode_text`."""
        payload = text.encode()
        return _token_ids(await _call(lambda: self._encode_text.remote(payload), ENCODE_TIMEOUT_S))


def _token_ids(answer: bytes) -> list[int]:
    encoding: Encoding = decode_encoding(answer)
    if isinstance(encoding, Refused):
        raise from_refusal(encoding)
    return encoding.token_ids


async def _call(start: Callable[[], Any], timeout_s: float) -> bytes:
    """The answer of a unary call, made outside of Serve's request context."""

    async def call() -> bytes:
        answer: bytes = await start()
        return answer

    work: Coroutine[Any, Any, bytes] = call()
    task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
    try:
        async with asyncio.timeout(timeout_s):
            return await task
    except asyncio.CancelledError:
        if asyncio.current_task().cancelling():  # type: ignore[union-attr]
            raise
        # The other side has cancelled the call.
        raise GeneratorUnavailable(
            "The tokenizer is stopping. Try again.", retry_after_s=RETRY_AFTER_S
        ) from None
    except Exception as error:
        raise from_call(error, "tokenizer") from error
