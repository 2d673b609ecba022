"""A request after validation: what every dialect and protocol is turned into before anything is done for it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from app.schema.sampling import SamplingParams
from app.schema.tools import Tool, ToolCall

OnDisconnect = Literal["cancel", "grace", "continue"]


class Message(msgspec.Struct, frozen=True):
    """A message of a chat. An assistant's may have `reasoning` and `tool_calls`; one of the role `tool` answers the call
    `tool_call_id`. `name` is that of its author, or of the tool.
    """

    role: str
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for one stream. Exactly one of `prompt`, `messages` and `prompt_token_ids` is set, until the
    prompt is encoded; then none.

    `sampling.max_tokens` of 0 means "not said": the service puts what the context leaves. `seed` None is replaced by one
    that the server draws and reports. `left_out` names the parameters of `sampling` that the client has not given: the model's
    own defaults stand for them.

    Of a prompt longer than `truncate_prompt_tokens` the last ones stay; -1 is as many as leave room for the answer.
    `add_special_tokens` is for `prompt`; `chat_template_kwargs`, `add_generation_prompt` and `continue_final_message` are for the
    template of `messages`.

    `tool_choice` is `none`, `auto`, `required` or `function:<name>`. Without `include_reasoning` the reasoning is not sent.
    """

    model: str
    sampling: SamplingParams
    left_out: tuple[str, ...] = ()
    seed: int | None = None
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    return_token_ids: bool = False
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    chat_template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    include_reasoning: bool = True
    stream: bool = True
    detach: bool = False
    timeout_s: float | None = None
    on_disconnect: OnDisconnect = "grace"
