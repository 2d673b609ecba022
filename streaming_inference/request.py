"""The fields of `POST /v1/streams` and their types. The server checks their values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class RequestFields(TypedDict, total=False):
    """One of `prompt`, `messages` and `prompt_token_ids`, and the options of the answer. docs/api.md describes each field."""

    model: str
    prompt: str
    messages: Sequence[Mapping[str, Any]]
    prompt_token_ids: Sequence[int]
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    include_reasoning: bool
    chat_template_kwargs: Mapping[str, Any]
    add_generation_prompt: bool
    continue_final_message: bool
    add_special_tokens: bool
    truncate_prompt_tokens: int
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    n: int
    logprobs: int
    return_token_ids: bool
    response_format: Mapping[str, Any]
    timeout_s: float
    on_disconnect: Literal["cancel", "grace", "continue"]


def encode_request(fields: RequestFields, **more: object) -> bytes:
    """The body of the request. Raises `ValueError` for numbers that JSON does not have, `TypeError` for other such values."""
    return json.dumps({**fields, **more}, allow_nan=False).encode()
