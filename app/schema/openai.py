"""The bodies of `POST /v1/chat/completions` and `POST /v1/completions`.

Unknown fields are ignored, as clients of this dialect expect. Known ones that would change the answer and are not available
are refused by name, never dropped. Both bodies become the same request as a native one, by the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import msgspec
from pydantic import ConfigDict, Discriminator, Field, Tag

from app.errors import InvalidRequest
from app.schema.chat_fields import ChatFields, SomeOrAll
from app.schema.constraint import Constraint
from app.schema.fields import Fields, GenerationFields, Logprobs, TokenIds, signed_seed
from app.schema.messages import OpenAIChatMessages, to_messages
from app.schema.requests import GenerationRequest, OnDisconnect
from app.schema.sampling import drawn_seed
from app.schema.structured_outputs import StructuredOutputs
from app.schema.tool_fields import OpenAITools
from app.settings import LimitsSettings

COMPLETION_MAX_TOKENS = 16
MAX_PROMPTS = 4096
"""More are refused before they are looked at, whatever the settings allow."""

# Fields of OpenAI and of vLLM that would change the answer, with the values that ask for nothing. Others are ignored.
_UNAVAILABLE: dict[str, tuple[object, ...]] = {
    "tools": ([],),  # of completions; chats have fields for these three
    "tool_choice": ("none", "auto"),
    "include_reasoning": (True,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"], []),
    "web_search_options": (),
    "suffix": ("",),
    "use_beam_search": (False,),
    "prompt_logprobs": (0, False),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "include_stop_str_in_output": (False,),
    "chat_template": (),
    "documents": ([],),
    "add_special_tokens": (False,),  # of a chat; completions have a field for it
    "skip_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
    "thinking_token_budget": (),
    "moderation": (),
    "priority": (0,),
    "logits_processors": ([],),
    "grammar": ("",),
    "json_schema": (),
    "regex": (),
    "ebnf": (),
    "prompt_embeds": (),
}
_INSTEAD = {"functions": "send tools", "function_call": "send tool_choice"}


class StreamOptions(Fields):
    """What a streamed answer carries besides text."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = Field(
        default=False, description="One more chunk, with the usage and no choices, before the end."
    )
    continuous_usage_stats: bool = Field(default=False, description="The usage so far in every chunk.")


class _OpenAIBody(GenerationFields):
    """What both OpenAI routes take."""

    model_config = ConfigDict(extra="allow")

    stream: bool = Field(default=False, description="true: chunks as server-sent events.")
    stream_options: StreamOptions | None = Field(default=None, description="Only with stream: true.")
    on_disconnect: OnDisconnect = Field(
        default="cancel", description="What becomes of the stream when its last reader goes."
    )
    truncate_prompt_tokens: SomeOrAll | None = Field(
        default=None,
        description="Keep so many of the prompt's last tokens; -1 as many as leave room for the answer.",
    )

    structured_outputs: StructuredOutputs | None = Field(
        default=None, description="response_format in vLLM's words; only one of the two."
    )

    def _constraint(self) -> Constraint | None:
        if self.structured_outputs is None:
            return super()._constraint()
        if super()._constraint() is not None:
            raise InvalidRequest(
                "Only one of response_format and structured_outputs may be given.", param="structured_outputs"
            )
        return self.structured_outputs.constraint()

    def _check_dialect(self) -> None:
        """Raises `InvalidRequest` for fields that this service knows and can't honour."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "stream_options is only allowed when stream is true.", param="stream_options"
            )
        given = self.model_extra or {}
        for name, value in given.items():
            if value is None or name not in _UNAVAILABLE or value in _UNAVAILABLE[name]:
                continue
            # Functions that are not to be called change nothing.
            if name == "functions" and given.get("function_call") == "none":
                continue
            instead = f"; {_INSTEAD[name]}" if name in _INSTEAD else " yet"
            raise InvalidRequest(f"{name} is not supported{instead}.", param=name)


class ChatCompletionBody(_OpenAIBody, ChatFields):
    """The body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "storyteller",
                    "messages": [{"role": "user", "content": "Tell me a story about a fox."}],
                    "stream": True,
                }
            ]
        },
    )

    messages: OpenAIChatMessages
    max_tokens: SomeOrAll | None = Field(default=None, description="The older name of max_completion_tokens.")
    max_completion_tokens: SomeOrAll | None = Field(
        default=None, description="Without it, and with -1, all that the context leaves."
    )
    logprobs: bool = Field(default=False, description="Report the log probability of each token.")
    top_logprobs: Logprobs | None = Field(
        default=None, description="How many alternatives to report; needs logprobs: true."
    )
    tools: OpenAITools = Field(default=[], description="Functions that the model may call.")
    enable_thinking: bool | None = Field(default=None, description="A variable of the template.")
    thinking: bool | dict[str, Any] | None = Field(
        default=None,
        description='A variable of the template. {"type": "enabled" | "disabled"} is also enable_thinking.',
    )
    reasoning_effort: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="A variable of the template. none is also enable_thinking: false."
    )

    def to_request(self, limits: LimitsSettings, default_model: str | None) -> GenerationRequest:
        """The request that this body asks for; `default_model` is the only model's name, or None if there are several.

        Raises `InvalidRequest` for what contradicts itself, exceeds `limits` or is not supported.
        """
        self._check_dialect()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs is only allowed when logprobs is true.", param="top_logprobs")
        max_tokens, max_tokens_param = self.max_tokens, "max_tokens"
        if self.max_completion_tokens is not None:
            if self.max_tokens not in (None, self.max_completion_tokens):
                raise InvalidRequest(
                    "max_tokens and max_completion_tokens differ; send one of them.", param="max_tokens"
                )
            max_tokens, max_tokens_param = self.max_completion_tokens, "max_completion_tokens"
        said = self._of_the_chat(self.tools) | {"chat_template_kwargs": self._template_variables()}
        request = self._request(
            limits,
            default_model,
            max_tokens=None if max_tokens == -1 else max_tokens,
            max_tokens_param=max_tokens_param,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            on_disconnect=self.on_disconnect,
            stream=self.stream,
            messages=to_messages(self.messages),
        )
        return msgspec.structs.replace(request, truncate_prompt_tokens=self.truncate_prompt_tokens, **said)

    def _template_variables(self) -> dict[str, Any]:
        """`chat_template_kwargs`, and under them what other fields say in other words."""
        variables: dict[str, Any] = {}
        if self.reasoning_effort is not None:
            variables["reasoning_effort"] = self.reasoning_effort
            if self.reasoning_effort == "none":
                variables["enable_thinking"] = False
        thinking = self.thinking
        if isinstance(thinking, dict):
            kind = thinking.get("type")
            if kind not in ("enabled", "disabled", "adaptive"):
                raise InvalidRequest(
                    "thinking.type must be one of enabled, disabled, adaptive.", param="thinking.type"
                )
            # Whether an adaptive model thinks is its own choice.
            thinking = None if kind == "adaptive" else kind == "enabled"
            if thinking is not None:
                variables["enable_thinking"] = thinking
        if thinking is not None:
            variables["thinking"] = thinking
        if self.enable_thinking is not None:
            variables["enable_thinking"] = self.enable_thinking
        return variables | self.chat_template_kwargs


def _kind_of_prompt(value: object) -> str:
    """Text, token ids, or a list of either, by the first element."""
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else None
    return "texts" if isinstance(first, str) else "id_lists" if isinstance(first, list) else "ids"


Text = Annotated[str, Field(min_length=1)]
CompletionPrompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[list[Text], Field(max_length=MAX_PROMPTS, fail_fast=True), Tag("texts")]
    | Annotated[list[TokenIds], Field(max_length=MAX_PROMPTS, fail_fast=True), Tag("id_lists")],
    Discriminator(_kind_of_prompt),
]


class CompletionBody(_OpenAIBody):
    """The body of `POST /v1/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "storyteller", "prompt": "Once upon a time", "stream": True}]
        }
    )

    prompt: CompletionPrompt = Field(
        description="A text, a list of token ids, or a list of either: then choice i of prompt p has the index p * n + i."
    )
    echo: bool = Field(default=False, description="Each choice begins with its prompt. Not with logprobs.")
    max_tokens: SomeOrAll = Field(
        default=COMPLETION_MAX_TOKENS, description="How many tokens at most; -1: all that the context leaves."
    )
    logprobs: Logprobs | None = Field(
        default=None, description="How many alternatives to report with each token."
    )
    best_of: int | None = Field(default=None, description="Only the same as n.")
    add_special_tokens: bool = Field(
        default=True, description="false: the prompt gets no token that it doesn't name, such as a BOS."
    )

    def to_request(self, limits: LimitsSettings, default_model: str | None) -> GenerationRequest:
        """The request for the first prompt; `default_model` is the only model's name, or None if there are several.

        Raises `InvalidRequest` for what contradicts itself, exceeds `limits` or is not supported.
        """
        self._check_dialect()
        if self.best_of not in (None, self.n):
            raise InvalidRequest("best_of is only supported when it equals n.", param="best_of")
        if self.echo and self.logprobs is not None:
            raise InvalidRequest(
                "echo is not supported with logprobs: there are no log probabilities of the prompt's tokens.",
                param="echo",
            )
        if self.echo and self.truncate_prompt_tokens is not None:
            raise InvalidRequest("echo is not supported with truncate_prompt_tokens.", param="echo")
        request = self._request(
            limits,
            default_model,
            max_tokens=None if self.max_tokens == -1 else self.max_tokens,
            max_tokens_param="max_tokens",
            logprobs=self.logprobs,
            on_disconnect=self.on_disconnect,
            stream=self.stream,
            **_prompt_fields(self.prompts[0]),
        )
        return msgspec.structs.replace(
            request,
            add_special_tokens=self.add_special_tokens,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
        )

    def to_requests(self, limits: LimitsSettings, default_model: str | None) -> list[GenerationRequest]:
        """A request for each prompt. Those of several prompts have seeds that follow one another. Raises as `to_request` does."""
        first = self.to_request(limits, default_model)
        prompts = self.prompts
        if len(prompts) == 1:
            return [first]
        if len(prompts) > limits.max_streams_per_connection:
            raise InvalidRequest(
                f"prompt must be at most {limits.max_streams_per_connection} prompts "
                f"(limits.max_streams_per_connection), and is {len(prompts)}.",
                param="prompt",
            )
        seed = drawn_seed() if first.seed is None else first.seed
        return [
            msgspec.structs.replace(first, seed=signed_seed(seed + number), **_prompt_fields(prompt))
            for number, prompt in enumerate(prompts)
        ]

    @property
    def prompts(self) -> Sequence[str | Sequence[int]]:
        """The prompts, each a text or token ids."""
        prompt = self.prompt
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            return [prompt]
        return prompt


class _PromptFields(TypedDict):
    prompt: str | None
    prompt_token_ids: tuple[int, ...] | None


def _prompt_fields(prompt: str | Sequence[int]) -> _PromptFields:
    if isinstance(prompt, str):
        return {"prompt": prompt, "prompt_token_ids": None}
    return {"prompt": None, "prompt_token_ids": tuple(prompt)}
