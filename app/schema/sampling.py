"""How the next token is chosen: the parameters of one request, as the engine reads them.

Ranges are checked once, at the edge (`app.schema.requests`); the engine relies on them.
"""

from __future__ import annotations

import secrets

import msgspec

from app.schema.constraint import Constraint

MAX_LOGPROBS = 20


def drawn_seed() -> int:
    """A seed for a request that has none. JavaScript, too, reads it as it is: it has 53 bits."""
    return secrets.randbits(53)


class SamplingDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's requests are sampled with where they leave it out; by itself every filter is off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """The sampling half of a request. Penalties, bias and `min_tokens` count the tokens already generated.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch their filter off. `seed` is the request's own or
    the one the server assigned. `logprobs` is the number of alternatives reported with each token; None reports nothing. The
    answer fits the `constraint`, if there is one.
    """

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    constraint: Constraint | None = None
