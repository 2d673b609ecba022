"""The tokenizer of one model as the ingress sees it: implements `app.ports.Tokenizer` over a link."""

from __future__ import annotations

from typing import TypeVar

from app.ports import ModelCard
from app.schema.constraint import Constraint
from app.schema.requests import GenerationRequest
from deployments.ingress.call_failure import as_service_error
from deployments.links.link import Link, LinkBroken
from deployments.messages import call
from deployments.messages.call import Request, decode_reply
from deployments.messages.tokenizer import CheckConstraint, Describe, EncodePrompt, EncodeText

DESCRIBE_TIMEOUT_S = 10.0
ENCODE_TIMEOUT_S = 30.0

Result = TypeVar("Result")


class TokenizerClient:
    """The tokenizer deployment of one model."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def describe(self) -> ModelCard:
        """See `app.ports.Tokenizer.describe`."""
        return await self._call(Describe(), DESCRIBE_TIMEOUT_S)

    async def encode(self, request: GenerationRequest) -> list[int]:
        """See `app.ports.Tokenizer.encode`."""
        return await self._call(EncodePrompt(request), ENCODE_TIMEOUT_S)

    async def encode_text(self, text: str) -> list[int]:
        """See `app.ports.Tokenizer.encode_text`."""
        return await self._call(EncodeText(text), ENCODE_TIMEOUT_S)

    async def check_constraint(self, constraint: Constraint) -> None:
        """See `app.ports.Tokenizer.check_constraint`."""
        await self._call(CheckConstraint(constraint), ENCODE_TIMEOUT_S)

    async def _call(self, request: Request[Result], timeout_s: float) -> Result:
        """The result. A call that breaks is made once more: it changes nothing."""
        data = call.encode(request)
        try:
            try:
                reply = await self._link.call(data, timeout_s)
            except LinkBroken:
                reply = await self._link.call(data, timeout_s)
        except Exception as error:
            raise as_service_error(error, "tokenizer") from error
        return decode_reply(request, reply)
