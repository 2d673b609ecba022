"""What passes between the ingress and an engine: the job that starts a generation, the batches of tokens that come back.

A job names its stream by `ingress` (one ingress process) and `key` (a number unique in it); a batch says by `position` where in
its choice it stands, so that a batch that comes twice is harmless and a gap is seen.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from app.schema.sampling import SamplingParams

EngineFinish = Literal["stop", "length", "error"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One stream to generate, or to go on with.

    `generated` holds what each of the `n` choices has so far: `n` lists, all empty for a new stream. The engine continues
    from there exactly as if it had sampled them itself. `finished` marks choices that need nothing more.
    """

    ingress: str
    key: int
    prompt: list[int]
    sampling: SamplingParams
    n: int = 1
    generated: list[list[int]] = []
    finished: list[bool] = []


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Natural logarithm of the sampled token's probability under the raw logits, and the likeliest alternatives."""

    logprob: float
    top: list[tuple[int, float]]


class TokenBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The tokens that one choice of one stream gained in a step, `token_ids[0]` being its token number `position`.

    `finish` is set on the last batch of a choice. `stop_token` is the id of a matched `stop_token_ids` entry (None for the
    model's own end token). `error` says, in words for the client, what went wrong when `finish` is "error".
    """

    key: int
    choice: int
    position: int
    token_ids: list[int]
    finish: EngineFinish | None = None
    stop_token: int | None = None
    logprobs: list[TokenLogprob] | None = None
    error: str | None = None
