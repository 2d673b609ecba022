"""The tokenizer of one model as the ingress sees it: implements `app.ports.Tokenizer` over a handle and a link."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from ray.serve.handle import DeploymentHandle

from app.errors import GeneratorUnavailable
from app.ports import ModelCard
from app.schema.requests import GenerationRequest
from deployments.ingress.calls import serve_options
from deployments.ingress.faults import RETRY_AFTER_S, from_call
from deployments.links.link import Link, LinkBroken
from deployments.messages.refusal import Refused, from_refusal
from deployments.messages.tokenizer import (
    EncodeCall,
    EncodePrompt,
    EncodeText,
    Encoding,
    decode_card,
    decode_encoding,
    encode,
)

DESCRIBE_TIMEOUT_S = 10.0
ENCODE_TIMEOUT_S = 30.0


class TokenizerClient:
    """The tokenizer deployment of one model. Described through Serve, while encoding needs the link."""

    def __init__(self, handle: DeploymentHandle[Any], link: Link) -> None:
        self._describe = handle.options(method_name="describe", **serve_options())
        self._link = link

    async def describe(self) -> ModelCard:
        """See `app.ports.Tokenizer.describe`."""
        task = asyncio.get_running_loop().create_task(self._described(), context=contextvars.Context())
        try:
            async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
                return decode_card(await task)
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            # The other side has cancelled the call.
            raise GeneratorUnavailable(
                "The tokenizer is stopping. Try again.", retry_after_s=RETRY_AFTER_S
            ) from None
        except Exception as error:
            raise from_call(error, "tokenizer") from error

    async def encode(self, request: GenerationRequest) -> list[int]:
        """See `app.ports.Tokenizer.encode`."""
        return await self._encoded(EncodePrompt(request))

    async def encode_text(self, text: str) -> list[int]:
        """See `app.ports.Tokenizer.encode_text`."""
        return await self._encoded(EncodeText(text))

    async def _encoded(self, call: EncodeCall) -> list[int]:
        """The ids. A call that breaks is made once more: it changes nothing."""
        data = encode(call)
        try:
            try:
                received = await self._link.call(data, ENCODE_TIMEOUT_S)
            except LinkBroken:
                received = await self._link.call(data, ENCODE_TIMEOUT_S)
        except Exception as error:
            raise from_call(error, "tokenizer") from error
        encoding: Encoding = decode_encoding(received)
        if isinstance(encoding, Refused):
            raise from_refusal(encoding)
        return encoding.token_ids

    async def _described(self) -> bytes:
        card: bytes = await self._describe.remote()
        return card
