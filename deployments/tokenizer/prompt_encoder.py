"""The prompts of one model as token ids: chat templates, special tokens, and text that is too long.

The tokenizers are never changed, so that several threads can use them at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
import msgspec

from app.context import check_length, prompt_field, truncated
from app.errors import InvalidRequest, PromptTooLong
from app.ports import ModelCard
from app.schema.requests import GenerationRequest, Message
from app.settings import ModelSettings
from deployments.model.files import (
    bare_copy,
    describe,
    load_transformers_tokenizer,
    model_path,
    read_end_ids,
)
from deployments.tokenizer.control_tokens import ControlTokens, encoded, strings_in, unused_character

MIN_CHARACTERS_PER_TOKEN = 16
"""What a token may stand for at least, also where the vocabulary has no token so long: a normalizer can join characters."""

RESERVED = {"continue_final_message", "chat_template"}
"""What is no variable of a template, though other servers take it as one."""


class PromptEncoder:
    """Turns the prompts of one model into ids. Safe to call from several threads."""

    def __init__(self, settings: ModelSettings) -> None:
        self._tokenizer = load_transformers_tokenizer(model_path(settings))
        self.card: ModelCard = describe(settings, self._tokenizer)
        self.end_ids = read_end_ids(model_path(settings), self._tokenizer)
        self._plain = bare_copy(self.card.tokenizer_json)
        template = self._tokenizer.get_chat_template() if self.card.has_chat_template else ""
        self._control_tokens = ControlTokens(self.card.tokenizer_json, template)
        self._parses_messages = settings.control_tokens_in_messages == "parse"
        longest_token = max(map(len, self._plain.get_vocab()))
        self._max_characters = self.card.max_model_len_tokens * max(longest_token, MIN_CHARACTERS_PER_TOKEN)

    def encode(self, request: GenerationRequest) -> list[int]:
        """The prompt's ids. Chat text is encoded as the template writes it; a plain prompt gets the model's special tokens.

        Names of control tokens are plain text in messages, unless the settings say otherwise. A plain prompt may use them.
        Raises `InvalidRequest` for messages that the template refuses and `PromptTooLong` for text that does not fit.
        """
        if request.prompt_token_ids is not None:
            return list(request.prompt_token_ids)
        if request.messages is not None:
            self._check_length(sum(len(message.content) for message in request.messages), "messages")
            ids = self._encode_chat(request, request.messages)
        else:
            text = request.prompt or ""
            self._check_length(len(text), "prompt")
            ids = encoded(self._plain, text, add_special_tokens=request.add_special_tokens)
        ids = truncated(ids, request, self.card)
        # Here already, so that no long list is sent for nothing.
        check_length(ids, self.card.max_model_len_tokens - 1, prompt_field(request))
        return ids

    def encode_text(self, text: str) -> list[int]:
        """The ids of a piece of text without special tokens. Raises `PromptTooLong` as `encode` does."""
        self._check_length(len(text), "text")
        return self._control_tokens.encode_text(text)

    def _encode_chat(self, request: GenerationRequest, messages: tuple[Message, ...]) -> list[int]:
        turns: list[dict[str, Any]] = [msgspec.to_builtins(message) for message in messages]
        variables = request.chat_template_kwargs
        texts = [*(message.content for message in messages), *strings_in(variables)]
        end = ""
        if request.continue_final_message:
            # Marks where the last message ends; what the template writes after it is left out.
            end = unused_character(texts)
            turns[-1]["content"] += end
            texts.append(end)
        marks = None
        if not self._parses_messages and self._control_tokens.can_be_named(texts):
            marks = self._control_tokens.marks(texts)
            turns = [turn | {"content": marks.put(turn["content"])} for turn in turns]
            variables = {name: marks.put_all(value) for name, value in variables.items()}
        rendered = self._render(turns, variables, add_generation_prompt=request.add_generation_prompt)
        if end:
            rendered, found, _ = rendered.rpartition(end)
            if not found:
                raise InvalidRequest(
                    "The model's chat template does not write the last message, so it can't be continued.",
                    param="continue_final_message",
                )
        if marks is None:
            return encoded(self._plain, rendered)
        return self._control_tokens.encode_rendered(rendered, marks)

    def _check_length(self, characters: int, field: str) -> None:
        if characters > self._max_characters:
            raise PromptTooLong(
                f"The text has {characters} characters, and at most {self._max_characters} can fit into the model's "
                f"{self.card.max_model_len_tokens} tokens.",
                param=field,
            )

    def _render(
        self, turns: list[dict[str, Any]], variables: Mapping[str, Any], *, add_generation_prompt: bool
    ) -> str:
        if not self.card.has_chat_template:
            raise InvalidRequest(
                f"The model {self.card.name} has no chat template; send a prompt.", param="messages"
            )
        own = {
            **self._tokenizer.special_tokens_map,
            "messages": turns,
            "tools": None,
            "add_generation_prompt": add_generation_prompt,
        }
        taken = sorted(variables.keys() & (own.keys() | RESERVED))
        if taken:
            raise InvalidRequest(
                f"chat_template_kwargs can't have {taken[0]}.", param=f"chat_template_kwargs.{taken[0]}"
            )
        from transformers.utils.chat_template_utils import _compile_jinja_template

        try:
            # As `apply_chat_template` does, which would make plain strings of the contents.
            template = _compile_jinja_template(self._tokenizer.get_chat_template())
            return str(template.render({"documents": None, **variables, **own}))
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            # A template speaks to the user only through `raise_exception`, which is a plain TemplateError.
            reason = f": {error}" if type(error) is jinja2.TemplateError else "."
            raise InvalidRequest(
                f"The model's chat template refuses these messages{reason}", param="messages"
            ) from error
