"""What a campaign asks for and does, drawn from its seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, get_args

Protocol = Literal["sse", "library", "websocket", "grpc", "chat"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
Disturbance = Literal[
    "nothing",
    "kill generator",
    "stop generator",
    "kill ingress",
    "stop ingress",
    "kill tokenizer",
    "stop tokenizer",
    "kill store",
    "stop store",
    "redeploy all",
]
"""To stop a process is to let it stand still for a while. To redeploy is to deploy another configuration, with one generator
more, or less again.
"""
OF_INGRESS: tuple[Disturbance, ...] = ("kill ingress", "stop ingress", "redeploy all")
"""What breaks the connections of clients."""
ROUND: tuple[Disturbance, ...] = (*get_args(Disturbance)[1:], "redeploy all")
"""What is done in each round, in any order: everything but nothing. The second redeployment takes the generator away again."""
KINDS = ("greedy", "seeded", "penalties", "stops", "n=3", "logprobs", "grammar")
"""Of requests. A request may be of several."""

_PROMPTS = ("Once upon a time", "The fox", "In a small house by the sea", "Tell me")
_STOPS = (["."], ["\n", " and"], [" the "])
# What they allow is longer than any answer, so that no stream ends before its time.
_FORMATS: tuple[dict[str, Any], ...] = (
    {
        "type": "json_schema",
        "json_schema": {
            "schema": {
                "type": "array",
                "minItems": 100,
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string", "maxLength": 24}, "age": {"type": "integer"}},
                    "required": ["name", "age"],
                    "additionalProperties": False,
                },
            }
        },
    },
    {"type": "grammar", "grammar": 'start: line{100,}\nline: /[A-Z][a-z]{1,9}( [a-z]{2,9}){2,6}/ ".\\n"'},
)
_STEERED = (" But then", " The moon rose over the sea.", "\n\nAnd so")


@dataclass(frozen=True)
class Edit:
    """A change of the running stream, sent when the client has `after` tokens. `elsewhere`: on another connection.

    `text` is what the stream is steered with, or the stop string that is added.
    """

    kind: Literal["steer", "update", "stop"]
    after: int
    text: str = ""
    elsewhere: bool = False


@dataclass(frozen=True)
class Call:
    """One stream of the load. `request` is its number among `Plan.requests`.

    `leaves_after`: the client cuts its own connection whenever it has so many tokens, and comes back. `rests_after`: it reads
    nothing for some seconds then. `delay_s`: what it waits after each frame.
    """

    request: int
    protocol: Protocol
    leaves_after: tuple[int, ...] = ()
    rests_after: int | None = None
    delay_s: float = 0.0
    edit: Edit | None = None

    @property
    def is_prompt(self) -> bool:
        """Whether the client takes everything at once, so that all pauses are the server's."""
        return not (self.leaves_after or self.rests_after or self.delay_s or self.edit)


class Plan:
    """The same seed gives the same requests, calls and disturbances; when they meet depends on the machine.

    `requests` are bodies of `POST /v1/streams`. Each has a seed or is greedy, so that its text is known.
    """

    def __init__(self, seed: int, *, model: str, requests: int = 24, tokens: int = 300) -> None:
        source = Random(seed)
        self._calls = Random(source.random())
        self._disturbances = Random(source.random())
        self.requests = [_request(source, model, tokens, number) for number in range(requests)]

    def calls(self) -> Iterator[Call]:
        """The calls, without end."""
        while True:
            yield self._call(self._calls)

    def _call(self, source: Random) -> Call:
        request, protocol = source.randrange(len(self.requests)), source.choice(PROTOCOLS)
        if protocol == "websocket" and is_plain(self.requests[request]) and source.random() < 0.6:
            return Call(request, protocol, edit=_edit(source))
        leaves_after: tuple[int, ...] = ()
        if protocol != "chat" and source.random() < 0.3:
            leaves_after = tuple(sorted(source.sample(range(1, 150), source.randint(1, 3))))
        return Call(
            request,
            protocol,
            leaves_after,
            rests_after=source.randrange(1, 100) if source.random() < 0.1 else None,
            delay_s=source.choice([0.0] * 9 + [0.02]),
        )

    def disturbances(self, kinds: Sequence[Disturbance]) -> Iterator[tuple[float, Disturbance]]:
        """What is done, in rounds of all `kinds`, without end, each so many seconds after the recovery from the one before."""
        source = self._disturbances
        while True:
            for kind in source.sample(kinds, len(kinds)):
                yield source.uniform(0.5, 4.0), kind


def kinds_of(fields: dict[str, Any]) -> frozenset[str]:
    """Those of `KINDS` that a request is of."""
    of = {
        "greedy": fields["temperature"] == 0,
        "seeded": "seed" in fields,
        "penalties": any(name.endswith("_penalty") for name in fields),
        "stops": "stop" in fields,
        "n=3": fields["n"] == 3,
        "logprobs": "logprobs" in fields,
        "grammar": "response_format" in fields,
    }
    return frozenset(kind for kind in KINDS if of[kind])


def is_plain(fields: dict[str, Any]) -> bool:
    """Whether the text of the request, when it is edited, can be told from that of the undisturbed run."""
    return fields["n"] == 1 and "stop" not in fields


def _edit(source: Random) -> Edit:
    after, elsewhere = source.randrange(1, 120), source.random() < 0.5
    kind = source.choice(["steer", "steer", "update", "stop"])
    if kind == "steer":
        return Edit("steer", after, source.choice(_STEERED), elsewhere)
    if kind == "update":
        return Edit("update", after, source.choice([".", " the", "and"]), elsewhere)
    return Edit("stop", after, elsewhere=elsewhere)


def _request(source: Random, model: str, tokens: int, number: int) -> dict[str, Any]:
    """The kinds are spread by the number, so that none is rare: of 24 requests each has 8 or more."""
    fields: dict[str, Any] = {
        "model": model,
        "prompt": source.choice(_PROMPTS),
        "max_tokens": source.randrange(tokens // 2, tokens),
        "n": 3 if number % 3 == 0 else 1,
    }
    if number % 5 < 2:
        fields["temperature"] = 0.0
    else:
        fields["seed"] = source.randrange(1000)
        fields["temperature"] = source.choice([0.7, 1.0, 1.5])
        fields |= source.choice([{}, {"top_p": 0.9}, {"top_k": 20, "top_p": 0.95}, {"min_p": 0.05}])
    if number % 2 == 0:
        fields |= source.choice(
            [{"repetition_penalty": 1.2}, {"presence_penalty": 0.5, "frequency_penalty": 0.3}]
        )
    if number % 3 == 1:
        # It says itself where the answer ends, and takes no other word for it.
        fields["response_format"] = source.choice(_FORMATS)
    else:
        fields["ignore_eos"] = True
    if number // 2 % 2 == 0 and number % 3 != 1:
        fields["stop"] = source.choice(_STOPS)
        fields["min_tokens"] = tokens // 4
    if number // 4 % 2 == 0:
        fields["logprobs"] = source.choice([0, 3])
    return fields
