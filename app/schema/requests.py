"""A request after validation: what every dialect and protocol is turned into before anything is done for it."""

from __future__ import annotations

from typing import Literal

import msgspec

from app.schema.sampling import SamplingParams

OnDisconnect = Literal["cancel", "grace", "continue"]


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for one stream. Exactly one of `prompt`, `messages` and `prompt_token_ids` is set, until the
    prompt is encoded; then none.

    `sampling.max_tokens` of 0 means "not said": the service puts what the context leaves. `seed` None is replaced by one
    that the server draws and reports. `left_out` names the parameters of `sampling` that the client has not given: the model's
    own defaults stand for them.
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
    stream: bool = True
    detach: bool = False
    timeout_s: float | None = None
    on_disconnect: OnDisconnect = "grace"
