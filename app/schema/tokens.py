"""What passes between the ingress and an engine: the job that starts a generation, text that is put into it, the batches of
tokens that come back.

A job names its stream by `ingress` (one ingress process) and `key` (a number unique in it); a batch says by `position` where in
its choice it stands, so that a batch that comes twice is harmless and a gap is seen.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from app.schema.sampling import SamplingParams

TRIAL_S = 30.0
"""A job on trial that has waited for so long for its first token, for memory perhaps, lets the next one try."""

EngineFinish = Literal["stop", "length", "error"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One stream to generate, or to go on with.

    `generated` holds what each of the `n` choices has so far: `n` lists, all empty for a new stream. The engine continues
    from there exactly as if it had sampled them itself. `finished` marks choices that need nothing more. `steered` says for
    each choice up to which of its tokens none can end it, because of steered tokens there: `n` numbers, or none if all are 0.
    A replica takes one job `on_trial` at a time.
    """

    ingress: str
    key: int
    prompt: list[int]
    sampling: SamplingParams
    n: int = 1
    generated: list[list[int]] = []
    finished: list[bool] = []
    steered: list[int] = []
    on_trial: bool = False


class Steering(msgspec.Struct, frozen=True, array_like=True):
    """Tokens to be put into every unfinished choice of a job, once for each `id`, however often it is asked for."""

    id: str
    token_ids: list[int]


class Edit(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A change of the stream that took effect in a choice before its token number `position`.

    From there on `stops` are stop strings too, and the next `steered` tokens come from a client, not from the model. `id` is
    that of the change, and unique in the stream.
    """

    id: str
    position: int
    steered: int = 0
    stops: list[str] = []

    @property
    def end(self) -> int:
        """The number of the first token after the steered tokens."""
        return self.position + self.steered


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Natural logarithm of the sampled token's probability under the raw logits, and the likeliest alternatives.

    A steered token is not sampled: it has 0, because it is certain, and no alternatives.
    """

    logprob: float
    top: list[tuple[int, float]]


class TokenBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The tokens that one choice of one stream gained in a step, `token_ids[0]` being its token number `position`.

    `finish` is set on the last batch of a choice. `stop_token` is the id of a matched `stop_token_ids` entry (None for the
    model's own end token). `error` says, in words for the client, what went wrong when `finish` is "error". `edits` took
    effect in or just after these tokens, in this order.
    """

    key: int
    choice: int
    position: int
    token_ids: list[int]
    finish: EngineFinish | None = None
    stop_token: int | None = None
    logprobs: list[TokenLogprob] | None = None
    error: str | None = None
    edits: list[Edit] | None = None


def steered_logprobs(tokens: int) -> list[TokenLogprob]:
    """What is reported for steered tokens."""
    return [TokenLogprob(0.0, [])] * tokens
