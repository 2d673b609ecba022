"""Fits a request into its model's context: the checks that need the prompt's length and the model's vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from app.errors import InvalidRequest, PromptTooLong
from app.ports import ModelCard
from app.schema.requests import GenerationRequest
from app.schema.sampling import SamplingParams
from app.settings import LimitsSettings


def check_vocabulary(request: GenerationRequest, card: ModelCard) -> None:
    """Raises `InvalidRequest` when the request names a token that the model does not have, or needs a template or structured
    output that it lacks.
    """
    _check_ids(request.prompt_token_ids or (), "prompt_token_ids", card)
    _check_ids(request.sampling.logit_bias, "logit_bias", card)
    _check_ids(request.sampling.stop_token_ids, "stop_token_ids", card)
    constraint = request.sampling.constraint
    if constraint is not None and not card.structured_output:
        raise InvalidRequest(
            f"The model {card.name} has no structured output; leave {constraint.param} out.",
            param=constraint.param,
        )
    if request.messages is not None and not card.has_chat_template:
        raise InvalidRequest(f"The model {card.name} has no chat template; send a prompt.", param="messages")
    check_tools(request, card)
    shows_tokens = request.return_token_ids or request.sampling.logprobs is not None
    if card.reasons and shows_tokens and not request.include_reasoning:
        raise InvalidRequest(
            "include_reasoning: false can't go with log probabilities or token ids, which would show the reasoning.",
            param="include_reasoning",
        )


def check_tools(request: GenerationRequest, card: ModelCard) -> None:
    """Raises `InvalidRequest` when the request has tools that the model would not be shown."""
    if request.tools and not card.shows_tools:
        raise InvalidRequest(
            f"The model {card.name} has no tools: its chat template does not show them. Leave tools out, send tool_choice: none, "
            "or choose a model that GET /v1/models lists with the ability tools.",
            param="tools",
        )


def fit_sampling(
    request: GenerationRequest, prompt: Sequence[int], seed: int, card: ModelCard, limits: LimitsSettings
) -> SamplingParams:
    """The request's sampling parameters with its seed, the model's defaults for what it leaves out, and `max_tokens` cut to what
    the context leaves.

    Raises `InvalidRequest` for an empty prompt and `PromptTooLong` for one that leaves no room for a token.
    """
    if not prompt:
        raise InvalidRequest("The prompt has no tokens.", param=prompt_field(request))
    most = card.max_model_len_tokens - 1
    check_length(prompt, min(most, limits.max_prompt_tokens or most), prompt_field(request))
    left = card.max_model_len_tokens - len(prompt)
    room = min(left, limits.max_output_tokens or left)
    max_tokens = min(request.sampling.max_tokens or room, room)
    min_tokens = min(request.sampling.min_tokens, max_tokens)
    defaults = {name: getattr(card.sampling_defaults, name) for name in request.left_out}
    return msgspec.structs.replace(
        request.sampling, **defaults, seed=seed, max_tokens=max_tokens, min_tokens=min_tokens
    )


def check_tokens(token_ids: Sequence[int], card: ModelCard) -> None:
    """Raises `InvalidRequest` for tokens that the model does not have, or more than its context takes."""
    check_length(token_ids, card.max_model_len_tokens, "tokens")
    _check_ids(token_ids, "tokens", card)


def truncated(prompt: list[int], request: GenerationRequest, card: ModelCard) -> list[int]:
    """As many of the prompt's last tokens as the request wants, if it says so."""
    wanted = request.truncate_prompt_tokens
    if wanted is None:
        return prompt
    if wanted < 0:
        wanted = max(1, card.max_model_len_tokens - max(1, request.sampling.max_tokens))
    return prompt[-wanted:]


def check_length(prompt: Sequence[int], most: int, field: str) -> None:
    """Raises `PromptTooLong` when the prompt has more than `most` tokens."""
    if len(prompt) > most:
        # LangChain and LiteLLM look for "prompt is too long" in the message, and not for the code.
        raise PromptTooLong(
            f"The prompt is too long: it has {len(prompt)} tokens, {len(prompt) - most} more than the {most}"
            " that are allowed.",
            param=field,
        )


def prompt_field(request: GenerationRequest) -> str:
    """The name of the field that carries the prompt."""
    if request.messages is not None:
        return "messages"
    return "prompt" if request.prompt is not None else "prompt_token_ids"


def _check_ids(ids: Iterable[int], field: str, card: ModelCard) -> None:
    for token_id in ids:
        if not 0 <= token_id < card.vocab_size:
            raise InvalidRequest(
                f"{field} names the token {token_id}; the model's tokens are 0 to {card.vocab_size - 1}.",
                param=field,
            )
