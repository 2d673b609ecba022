"""The tokenizer deployment: describes the model and encodes prompts, off the event loop."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import ray

from app.settings import ModelSettings
from deployments.grammar.checker import GrammarChecker
from deployments.links.server import LinkServer
from deployments.messages.call import Done, answer, encode
from deployments.messages.tokenizer import (
    CheckConstraint,
    Describe,
    EncodePrompt,
    EncodeText,
    decode_request,
)
from deployments.tokenizer.prompt_encoder import PromptEncoder

MAX_THREADS = 4
MAX_CALLS = 256


class Tokenizer:
    """A Serve deployment. Answers the requests of `deployments.messages.tokenizer` on its link."""

    def __init__(self, settings: ModelSettings) -> None:
        self._encoder = PromptEncoder(settings)
        threads = max(1, min(MAX_THREADS, os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")
        card = self._encoder.card
        self._checker = GrammarChecker(card.tokenizer_json, card.vocab_size, self._encoder.end_ids)
        # It checks one at a time, and what takes its time must not keep prompts waiting.
        self._checks = ThreadPoolExecutor(1, thread_name_prefix="check")
        self._link = LinkServer(self.call, max_calls=MAX_CALLS)

    async def link_address(self) -> bytes:
        """The encoded `LinkAddress` of `call`."""
        return await self._link.address(ray.util.get_node_ip_address())

    async def call(self, data: bytes) -> bytes:
        """The encoded reply to an encoded `TokenizerRequest`."""
        request = decode_request(data)
        if isinstance(request, Describe):
            return encode(Done(self._encoder.card))
        loop = asyncio.get_running_loop()
        if isinstance(request, CheckConstraint):
            return await answer(loop.run_in_executor(self._checks, self._checker.check, request.constraint))
        return await answer(loop.run_in_executor(self._pool, self._ids, request))

    def _ids(self, request: EncodePrompt | EncodeText) -> list[int]:
        if isinstance(request, EncodePrompt):
            return self._encoder.encode(request.request)
        return self._encoder.encode_text(request.text)
