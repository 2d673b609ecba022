"""The tokenizer deployment: renders chat templates and encodes prompts, off the event loop.

Each worker thread has a tokenizer of its own, because a shared one mixes up the settings of concurrent calls, and encodes with
`encode_batch`, which frees the interpreter lock while it works.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jinja2
import msgspec
import ray

from app.errors import InvalidRequest, PromptTooLong, ServiceError
from app.ports import ModelCard
from app.schema.requests import GenerationRequest, Message
from app.settings import ModelSettings
from deployments.links.server import LinkServer
from deployments.messages.refusal import refusal
from deployments.messages.tokenizer import EncodeCall, Encoded, EncodePrompt, decode_call
from deployments.model.files import bare_copy, describe, load_transformers_tokenizer, model_path

if TYPE_CHECKING:
    import tokenizers

MAX_CHARACTERS_PER_TOKEN = 16
MAX_THREADS = 4
MAX_CALLS = 256

_encode = msgspec.msgpack.Encoder().encode


class PromptEncoder:
    """Turns the prompts of one model into ids. Safe to call from several threads."""

    def __init__(self, settings: ModelSettings) -> None:
        self._tokenizer = load_transformers_tokenizer(model_path(settings))
        self.card: ModelCard = describe(settings, self._tokenizer)
        self._max_characters = MAX_CHARACTERS_PER_TOKEN * self.card.max_model_len_tokens
        self._own = threading.local()

    def encode(self, request: GenerationRequest) -> list[int]:
        """The prompt's ids. Chat text is taken as the template writes it; a plain prompt gets the model's special tokens.

        Raises `InvalidRequest` for messages that the template refuses and `PromptTooLong` for text that can't possibly fit.
        """
        if request.prompt_token_ids is not None:
            return list(request.prompt_token_ids)
        if request.messages is not None:
            self._check_length(sum(len(message.content) for message in request.messages), "messages")
            return self._ids(self._render(request.messages), add_special_tokens=False)
        text = request.prompt or ""
        self._check_length(len(text), "prompt")
        return self._ids(text, add_special_tokens=True)

    def encode_text(self, text: str) -> list[int]:
        """The ids of a piece of text in which nothing is special. Raises `PromptTooLong` as `encode` does."""
        self._check_length(len(text), "text")
        self._bare.encode_special_tokens = True
        try:
            return self._ids(text, add_special_tokens=False)
        finally:
            self._bare.encode_special_tokens = False

    def _check_length(self, characters: int, field: str) -> None:
        if characters > self._max_characters:
            raise PromptTooLong(
                f"The text has {characters} characters, far more than the model's {self.card.max_model_len_tokens} tokens "
                "can hold.",
                param=field,
            )

    def _render(self, messages: tuple[Message, ...]) -> str:
        if not self.card.has_chat_template:
            raise InvalidRequest(
                f"The model {self.card.name} has no chat template; send a prompt.", param="messages"
            )
        turns: list[dict[str, Any]] = [msgspec.to_builtins(message) for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            # A template speaks to the user only through `raise_exception`, which is a plain TemplateError.
            reason = f": {error}" if type(error) is jinja2.TemplateError else "."
            raise InvalidRequest(
                f"The model's chat template refuses these messages{reason}", param="messages"
            ) from error
        return str(text)

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._bare.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    @property
    def _bare(self) -> tokenizers.Tokenizer:
        own = self._own
        if not hasattr(own, "tokenizer"):
            own.tokenizer = bare_copy(self.card.tokenizer_json)
        tokenizer: tokenizers.Tokenizer = own.tokenizer
        return tokenizer


class Tokenizer:
    """A Serve deployment. Answers are msgpack: a `ModelCard`, or an `Encoding`."""

    def __init__(self, settings: ModelSettings) -> None:
        self._encoder = PromptEncoder(settings)
        threads = max(1, min(MAX_THREADS, os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")
        self._link = LinkServer(self.encode, max_calls=MAX_CALLS)

    async def describe(self) -> bytes:
        return _encode(self._encoder.card)

    async def link_address(self) -> bytes:
        """The encoded `LinkAddress` on which `encode` can be reached."""
        return await self._link.address(ray.util.get_node_ip_address())

    async def encode(self, data: bytes) -> bytes:
        """The encoded `Encoding` that answers an encoded `EncodeCall`."""
        call: EncodeCall = decode_call(data)
        try:
            ids = await asyncio.get_running_loop().run_in_executor(self._pool, self._ids, call)
        except ServiceError as error:
            return _encode(refusal(error))
        return _encode(Encoded(ids))

    def _ids(self, call: EncodeCall) -> list[int]:
        if isinstance(call, EncodePrompt):
            return self._encoder.encode(call.request)
        return self._encoder.encode_text(call.text)
