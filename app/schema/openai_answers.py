"""The answers of the OpenAI dialect that are not streamed: models, chat completions, completions."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta

from app.schema.frames import Logprob

OpenAIFinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
ReasoningName = Literal["reasoning_content", "reasoning"]
UnixSeconds = Annotated[int, Meta(description="Unix seconds.")]


class SamplingDefaults(TypedDict):
    """What a request that leaves it out is sampled with."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float


class Abilities(TypedDict):
    """What a model can be asked for besides text."""

    tools: bool
    reasoning: bool
    structured_output: bool


class Model(TypedDict):
    id: str
    object: Literal["model"]
    created: UnixSeconds
    owned_by: str
    max_model_len: Annotated[int, Meta(description="Tokens of prompt and answer together.")]
    abilities: Abilities
    deterministic: Annotated[
        bool, Meta(description="Whether a seed gives the same text again on every generator of the model.")
    ]
    sampling_defaults: SamplingDefaults


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[Model]


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    reasoning_tokens: int


class OpenAIUsage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: NotRequired[CompletionTokensDetails]


class ChoiceEnding(TypedDict):
    finish_reason: OpenAIFinishReason
    stop_reason: str | int | None
    token_ids: NotRequired[list[int]]


class CalledFunction(TypedDict):
    name: str
    arguments: Annotated[str, Meta(description="JSON; its end is missing if the output was cut.")]


class AnsweredCall(TypedDict):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatAnswer(TypedDict):
    """`content` is null when there are only tool calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[AnsweredCall]]


class ChatLogprobs(TypedDict):
    content: list[Logprob]
    refusal: None


class ChatChoice(ChoiceEnding):
    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None


class ChatCompletion(TypedDict):
    """A chat completion. `stream_id` names the stream to `/v1/streams`."""

    id: str
    object: Literal["chat.completion"]
    created: UnixSeconds
    model: str
    stream_id: str
    choices: list[ChatChoice]
    seed: int
    usage: OpenAIUsage


class CompletionLogprobs(TypedDict):
    """The older shape: one entry of each list for each token. `text_offset` counts characters."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(ChoiceEnding):
    index: int
    text: str
    logprobs: CompletionLogprobs | None


class Completion(TypedDict):
    """A text completion. `stream_id` names the stream to `/v1/streams`."""

    id: str
    object: Literal["text_completion"]
    created: UnixSeconds
    model: str
    stream_id: str
    choices: list[CompletionChoice]
    seed: int
    usage: OpenAIUsage
