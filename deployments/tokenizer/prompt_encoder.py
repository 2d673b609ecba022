"""The prompts of one model as token ids: chat templates, special tokens, and text that is too long.

The tokenizers are never changed, so that several threads can use them at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from app.context import check_length, check_tools, prompt_field, truncated
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
from deployments.tokenizer.chat_template import ChatTemplate, as_it_is, tools_of
from deployments.tokenizer.control_tokens import ControlTokens, encoded, strings_in, unused_character
from deployments.tokenizer.response_templates import TEXT_FORMAT, template_of, with_calls

MIN_CHARACTERS_PER_TOKEN = 16
"""What a token may stand for at least, also where the vocabulary has no token so long: a normalizer can join characters."""


class PromptEncoder:
    """Turns the prompts of one model into ids. Safe to call from several threads."""

    def __init__(self, settings: ModelSettings) -> None:
        self._tokenizer = load_transformers_tokenizer(model_path(settings))
        self._template = ChatTemplate(
            self._tokenizer, settings.name, may_write_tools=settings.tool_parser in (None, TEXT_FORMAT)
        )
        written = template_of(self._tokenizer, settings.tool_parser)
        self.card: ModelCard = msgspec.structs.replace(
            describe(settings, self._tokenizer),
            shows_tools=self._template.shows_tools,
            response_template=with_calls(written) if self._template.as_text else written,
        )
        self.end_ids = read_end_ids(model_path(settings), self._tokenizer)
        self._plain = bare_copy(self.card.tokenizer_json)
        self._control_tokens = ControlTokens(self.card.tokenizer_json, self._template.source)
        self._parses_messages = settings.control_tokens_in_messages == "parse"
        # The token before every prompt, if there is one.
        added = encoded(self._plain, "", add_special_tokens=True)[:1]
        self._bos = added if added == [self._tokenizer.bos_token_id] else []
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
            check_tools(request, self.card)
            self._check_length(sum(map(len, _texts(request, request.messages))), "messages")
            ids = self._encode_chat(request, request.messages)
        else:
            text = request.prompt or ""
            self._check_length(len(text), "prompt")
            ids = encoded(self._plain, text, add_special_tokens=request.add_special_tokens)
            if request.add_special_tokens and self._bos and ids[:2] == self._bos * 2:
                del ids[0]  # the prompt spells out what was added
        ids = truncated(ids, request, self.card)
        # Here already, so that no long list is sent for nothing.
        check_length(ids, self.card.max_model_len_tokens - 1, prompt_field(request))
        return ids

    def encode_text(self, text: str) -> list[int]:
        """The ids of a piece of text without special tokens. Raises `PromptTooLong` as `encode` does."""
        self._check_length(len(text), "text")
        return self._control_tokens.encode_text(text)

    def _encode_chat(self, request: GenerationRequest, messages: Sequence[Message]) -> list[int]:
        texts = _texts(request, messages)
        end = ""
        if request.continue_final_message:
            # Marks where the last message ends; what the template writes after it is left out.
            end = unused_character(texts)
            last = messages[-1]
            messages = [*messages[:-1], msgspec.structs.replace(last, content=last.content + end)]
            texts.append(end)
        marks = None
        put = as_it_is
        if not self._parses_messages and self._control_tokens.can_be_named(texts):
            marks = self._control_tokens.marks(texts)
            put = marks.put_all
        rendered = self._template.render(
            self._template.turns(messages, put),
            tools_of(request.tools, put) if request.tools else None,
            {name: put(value) for name, value in request.chat_template_kwargs.items()},
            add_generation_prompt=request.add_generation_prompt,
        )
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


def _texts(request: GenerationRequest, messages: Sequence[Message]) -> list[str]:
    """All that the client has written of a chat."""
    texts = [*strings_in(request.chat_template_kwargs)]
    for tool in request.tools:
        texts += [tool.name, tool.description, *strings_in(tool.parameters)]
    for message in messages:
        texts += [message.content, message.reasoning, message.tool_call_id or "", message.name or ""]
        for call in message.tool_calls:
            texts += [call.id, call.name, call.arguments]
    return texts
