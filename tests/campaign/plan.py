"""What a campaign asks for and does, drawn from its seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

Protocol = Literal["sse", "library", "websocket", "grpc", "chat"]
PROTOCOLS: tuple[Protocol, ...] = ("sse", "library", "websocket", "grpc", "chat")
Disturbance = Literal["kill generator", "stop generator", "kill ingress", "kill tokenizer"]
DISTURBANCES: tuple[Disturbance, ...] = (
    "kill generator",
    "kill generator",
    "stop generator",
    "stop generator",
    "kill ingress",
    "kill tokenizer",
)
"""Drawn from as often as they stand here."""

_PROMPTS = ("Once upon a time", "The fox", "In a small house by the sea", "Tell me")
_STOPS = (["."], ["\n", " and"], [" the "])


@dataclass(frozen=True)
class Call:
    """One stream of the load. `request` is its number among `Plan.requests`.

    `leaves_after`: the client cuts its own connection when it has so many tokens, and comes back. `delay_s`: what it waits after
    each frame.
    """

    request: int
    protocol: Protocol
    leaves_after: int | None = None
    delay_s: float = 0.0


class Plan:
    """The same seed gives the same requests, calls and disturbances; when they meet depends on the machine.

    `requests` are bodies of `POST /v1/streams`. Each has a seed or is greedy, so that its text is known.
    """

    def __init__(self, seed: int, *, model: str, requests: int = 24, tokens: int = 300) -> None:
        source = Random(seed)
        self._calls = Random(source.random())
        self._disturbances = Random(source.random())
        self.requests = [_request(source, model, tokens) for _ in range(requests)]

    def calls(self) -> Iterator[Call]:
        """The calls, without end."""
        source = self._calls
        while True:
            request = source.randrange(len(self.requests))
            protocol = source.choice(PROTOCOLS)
            may_leave = protocol != "chat" and source.random() < 0.3
            yield Call(
                request,
                protocol,
                leaves_after=source.randrange(1, 150) if may_leave else None,
                delay_s=source.choice([0.0] * 9 + [0.02]),
            )

    def disturbances(self) -> Iterator[tuple[float, Disturbance]]:
        """What is done, without end, and how many seconds after the server has recovered from the one before."""
        source = self._disturbances
        while True:
            yield source.uniform(0.5, 4.0), source.choice(DISTURBANCES)


def _request(source: Random, model: str, tokens: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": model,
        "prompt": source.choice(_PROMPTS),
        "max_tokens": source.randrange(tokens // 2, tokens),
        "ignore_eos": True,
        "n": source.choice([1, 1, 1, 3]),
    }
    if source.random() < 0.3:
        fields["temperature"] = 0.0
    else:
        fields["seed"] = source.randrange(1000)
        fields["temperature"] = source.choice([0.7, 1.0, 1.5])
        fields |= source.choice([{}, {"top_p": 0.9}, {"top_k": 20, "top_p": 0.95}, {"min_p": 0.05}])
    if source.random() < 0.3:
        fields |= source.choice(
            [{"repetition_penalty": 1.2}, {"presence_penalty": 0.5, "frequency_penalty": 0.3}]
        )
    if source.random() < 0.3:
        fields["stop"] = source.choice(_STOPS)
        fields["min_tokens"] = 30
    if source.random() < 0.2:
        fields["logprobs"] = source.choice([0, 3])
    return fields
