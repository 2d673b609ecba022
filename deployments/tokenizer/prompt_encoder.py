"""The prompts of one model as token ids: chat templates, special tokens, and text that is too long.

Each thread has its own tokenizer, because a shared one mixes up the settings of concurrent calls. It encodes with `encode_batch`,
which frees the interpreter lock while it works.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import jinja2
import msgspec

from app.errors import InvalidRequest, PromptTooLong
from app.ports import ModelCard
from app.schema.requests import GenerationRequest, Message
from app.settings import ModelSettings
from deployments.model.files import bare_copy, describe, load_transformers_tokenizer, model_path

if TYPE_CHECKING:
    import tokenizers

MAX_CHARACTERS_PER_TOKEN = 16


class PromptEncoder:
    """Turns the prompts of one model into ids. Safe to call from several threads."""

    def __init__(self, settings: ModelSettings) -> None:
        self._tokenizer = load_transformers_tokenizer(model_path(settings))
        self.card: ModelCard = describe(settings, self._tokenizer)
        self._max_characters = MAX_CHARACTERS_PER_TOKEN * self.card.max_model_len_tokens
        self._own = threading.local()

    def encode(self, request: GenerationRequest) -> list[int]:
        """The prompt's ids. Chat text is encoded as the template writes it; a plain prompt gets the model's special tokens.

        Raises `InvalidRequest` for messages that the template refuses and `PromptTooLong` for text that can't fit.
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
        """The ids of a piece of text without special tokens. Raises `PromptTooLong` as `encode` does."""
        self._check_length(len(text), "text")
        self._bare.encode_special_tokens = True
        try:
            return self._ids(text, add_special_tokens=False)
        finally:
            self._bare.encode_special_tokens = False

    def _check_length(self, characters: int, field: str) -> None:
        if characters > self._max_characters:
            raise PromptTooLong(
                f"The text has {characters} characters, and at most {self._max_characters} can fit into the model's "
                f"{self.card.max_model_len_tokens} tokens.",
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
