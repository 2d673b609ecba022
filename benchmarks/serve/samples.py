"""What a client saw of one stream, and the figures of many of them together.

Times are seconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from benchmarks.serve.summary import Summary, quantiles, summarize

MAX_PROBLEMS = 10

Outcome = Literal["complete", "refused", "broken", "timeout", "wrong"]


class StreamSample(msgspec.Struct, frozen=True):
    """One stream: when it was due, sent and over; when each delta came and how many tokens it brought.

    `refused` had another status than 200, `broken` ended without its last byte, `wrong` ended properly with content that
    fails the check (`problem` says which). `completion_tokens` is the server's own count, where its dialect has one.
    """

    due_s: float
    sent_s: float
    ended_s: float
    outcome: Outcome
    arrivals_s: list[float]
    tokens: list[int]
    problem: str | None = None
    completion_tokens: int | None = None

    @property
    def delivered_tokens(self) -> int:
        counted = sum(self.tokens)
        return counted if self.completion_tokens is None else self.completion_tokens

    @property
    def ttft_s(self) -> float | None:
        """From the moment at which the request was due, so that the delay of a late client counts."""
        return self.arrivals_s[0] - self.due_s if self.arrivals_s else None

    def itl_s(self) -> list[float]:
        """The inter-token latencies: seconds between consecutive deltas."""
        return [later - earlier for earlier, later in pairwise(self.arrivals_s)]

    def itl_per_token_s(self) -> Iterator[float]:
        """Seconds between consecutive tokens: the tokens of one delta share the time since the delta before it."""
        for itl_s, tokens in zip(self.itl_s(), self.tokens[1:], strict=True):
            for _ in range(tokens):
                yield itl_s / tokens


class Limits(msgspec.Struct, frozen=True):
    """When a stream was good: its first token within `ttft_s`, and the 99th percentile of its ITL within `itl_s`."""

    ttft_s: float
    itl_s: float

    def hold_for(self, sample: StreamSample) -> bool:
        if sample.outcome != "complete" or sample.ttft_s is None or sample.ttft_s > self.ttft_s:
            return False
        itl_s = sample.itl_s()
        return not itl_s or quantiles(itl_s, 100)[98] <= self.itl_s


class Observation(msgspec.Struct, frozen=True):
    """What the clients saw in one load. `goodput` counts the streams that kept the limits.

    `itl_ms` is between consecutive deltas, `itl_per_token_ms` between consecutive tokens.
    """

    streams: int
    outcomes: dict[str, int]
    problems: list[str]
    dropped: int
    delivered_tokens: int
    duration_s: float
    tokens_per_s: float
    goodput_tokens_per_s: float
    goodput_share: float
    tokens_per_delta: float
    ttft_ms: Summary | None
    itl_ms: Summary | None
    itl_per_token_ms: Summary | None
    total_ms: Summary | None


def observe(samples: Sequence[StreamSample], limits: Limits, *, dropped: int = 0) -> Observation:
    """The distributions over all `samples`; TTFT and ITL of every stream count, totals of complete ones only."""
    begun_s = min((sample.due_s for sample in samples), default=0.0)
    over_s = max((sample.ended_s for sample in samples), default=0.0)
    duration_s = max(over_s - begun_s, 1e-9)
    tokens = sum(sample.delivered_tokens for sample in samples)
    deltas = sum(len(sample.arrivals_s) for sample in samples)
    good = [sample for sample in samples if limits.hold_for(sample)]
    problems = {sample.problem for sample in samples if sample.problem is not None}
    return Observation(
        streams=len(samples),
        outcomes=dict(sorted(Counter(sample.outcome for sample in samples).items())),
        problems=sorted(problems)[:MAX_PROBLEMS],
        dropped=dropped,
        delivered_tokens=tokens,
        duration_s=duration_s,
        tokens_per_s=tokens / duration_s,
        goodput_tokens_per_s=sum(sample.delivered_tokens for sample in good) / duration_s,
        goodput_share=len(good) / max(1, len(samples) + dropped),
        tokens_per_delta=tokens / max(1, deltas),
        ttft_ms=_in_ms([ttft for sample in samples if (ttft := sample.ttft_s) is not None]),
        itl_ms=_in_ms([itl_s for sample in samples for itl_s in sample.itl_s()]),
        itl_per_token_ms=_in_ms([itl_s for sample in samples for itl_s in sample.itl_per_token_s()]),
        total_ms=_in_ms(
            [sample.ended_s - sample.due_s for sample in samples if sample.outcome == "complete"]
        ),
    )


def _in_ms(values_s: list[float]) -> Summary | None:
    return summarize([value * 1e3 for value in values_s])
