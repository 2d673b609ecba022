"""The body of `POST /v1/streams`, which is also what WebSocket and handle callers send to start a stream."""

from __future__ import annotations

from typing import Annotated

import msgspec
from pydantic import ConfigDict, Field

from app.errors import InvalidRequest
from app.schema.chat_fields import ChatFields, SomeOrAll
from app.schema.fields import GenerationFields, Logprobs, MaxTokens, TokenIds
from app.schema.messages import ChatMessages, to_messages
from app.schema.requests import GenerationRequest, OnDisconnect
from app.schema.tool_fields import Tools
from app.settings import LimitsSettings

_PROMPT_FIELDS = ("prompt", "messages", "prompt_token_ids")
# What only a chat can have, with the values that say nothing.
_CHAT_FIELDS: dict[str, tuple[object, ...]] = {
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
}


class StreamBody(GenerationFields, ChatFields):
    """One stream to start. Exactly one of `prompt`, `messages` and `prompt_token_ids` says what it is about."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"prompt": "Once upon a time", "max_tokens": 64},
                {"messages": [{"role": "user", "content": "Tell me a story about a fox."}], "temperature": 0},
            ]
        },
    )

    prompt: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Text, given to the model as it is."
    )
    messages: ChatMessages | None = Field(
        default=None, description="A chat, put through the model's template."
    )
    prompt_token_ids: TokenIds | None = Field(
        default=None, description="Token ids, given to the model as they are."
    )
    tools: Tools = Field(default=[], description="Functions that the model may call. Only in a chat.")
    add_special_tokens: bool = Field(
        default=True, description="false: the prompt gets no token that it doesn't name, such as a BOS."
    )
    truncate_prompt_tokens: SomeOrAll | None = Field(
        default=None,
        description="Keep so many of the prompt's last tokens; -1 as many as leave room for the answer.",
    )
    max_tokens: MaxTokens | None = Field(default=None, description="Without it, all that the context leaves.")
    logprobs: Logprobs | None = Field(
        default=None, description="How many alternatives to report with each token."
    )
    stream: bool = Field(default=True, description="false: one JSON at the end instead of events.")
    detach: bool = Field(
        default=False, description="Answer at once with the stream's id; the stream goes on without a reader."
    )
    on_disconnect: OnDisconnect = Field(
        default="grace",
        description="What becomes of the stream when its last reader goes. With detach, `continue` is the default.",
    )

    def to_request(self, limits: LimitsSettings, default_model: str | None) -> GenerationRequest:
        """The request that this body asks for; `default_model` is the only model's name, or None if there are several.

        Raises `InvalidRequest` for what contradicts itself, exceeds `limits` or is not supported.
        """
        given = [name for name in _PROMPT_FIELDS if getattr(self, name) is not None]
        if not given:
            raise InvalidRequest("One of prompt, messages and prompt_token_ids is required.", param="prompt")
        if len(given) > 1:
            raise InvalidRequest(f"Only one of {' and '.join(given)} may be given.", param=given[1])
        if self.messages is None:
            for name, nothing in _CHAT_FIELDS.items():
                if getattr(self, name) not in nothing:
                    raise InvalidRequest(f"{name} is only allowed with messages.", param=name)
        said = self._of_the_chat(self.tools)
        # A stream that starts without a reader does not wait for one, unless the client says so.
        unread = self.detach and "on_disconnect" not in self.model_fields_set
        request = self._request(
            limits,
            default_model,
            max_tokens=self.max_tokens,
            max_tokens_param="max_tokens",
            logprobs=self.logprobs,
            on_disconnect="continue" if unread else self.on_disconnect,
            stream=self.stream,
            prompt=self.prompt,
            messages=None if self.messages is None else to_messages(self.messages),
            prompt_token_ids=None if self.prompt_token_ids is None else tuple(self.prompt_token_ids),
        )
        return msgspec.structs.replace(
            request,
            add_special_tokens=self.add_special_tokens,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            detach=self.detach,
            **said,
        )
