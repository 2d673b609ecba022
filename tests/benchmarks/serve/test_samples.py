"""What samples add up to: TTFT from the due time, ITL between deltas and between tokens, goodput."""

from __future__ import annotations

import pytest

from benchmarks.serve.samples import Limits, Outcome, StreamSample, observe

LIMITS = Limits(ttft_s=0.2, itl_s=0.1)


def sample(
    arrivals_s: list[float],
    tokens: list[int] | None = None,
    *,
    outcome: Outcome = "complete",
    due_s: float = 10.0,
) -> StreamSample:
    return StreamSample(
        due_s=due_s,
        sent_s=due_s + 0.05,
        ended_s=max([due_s, *arrivals_s]) + 0.5,
        outcome=outcome,
        arrivals_s=arrivals_s,
        tokens=tokens if tokens is not None else [1] * len(arrivals_s),
        problem=None if outcome == "complete" else f"was {outcome}",
    )


def test_ttft_counts_from_the_moment_at_which_the_request_was_due() -> None:
    assert sample([10.1, 10.2]).ttft_s == pytest.approx(0.1)
    assert sample([]).ttft_s is None


def test_tokens_of_one_delta_share_its_itl() -> None:
    seen = sample([10.0, 10.5, 10.5, 11.5], [2, 1, 1, 4])
    assert seen.itl_s() == [0.5, 0.0, 1.0]
    assert list(seen.itl_per_token_s()) == [0.5, 0.0, 0.25, 0.25, 0.25, 0.25]


def test_limits() -> None:
    assert LIMITS.hold_for(sample([10.1, 10.2]))
    assert LIMITS.hold_for(sample([10.1]))
    assert not LIMITS.hold_for(sample([10.3, 10.31])), "late"
    assert not LIMITS.hold_for(sample([10.1, 10.3])), "an ITL too long"
    assert not LIMITS.hold_for(sample([10.1, 10.2], outcome="broken"))
    assert not LIMITS.hold_for(sample([]))


def test_one_long_itl_in_a_hundred_and_one_is_within_the_limit() -> None:
    arrivals_s = [10.1 + 0.01 * index for index in range(102)]
    assert LIMITS.hold_for(sample([*arrivals_s[:-1], arrivals_s[-1] + 1]))
    assert not LIMITS.hold_for(sample([*arrivals_s[:-2], arrivals_s[-2] + 1, arrivals_s[-1] + 2]))


def test_an_observation_adds_up() -> None:
    samples = [
        sample([10.1, 10.15, 10.2], [1, 2, 1]),
        sample([10.4, 10.45], [1, 1], due_s=10.0),
        sample([10.1], outcome="broken"),
        sample([], outcome="refused"),
    ]
    seen = observe(samples, LIMITS, dropped=1)
    assert (seen.streams, seen.dropped, seen.delivered_tokens) == (4, 1, 7)
    assert seen.outcomes == {"broken": 1, "complete": 2, "refused": 1}
    assert seen.problems == ["was broken", "was refused"]
    assert seen.duration_s == pytest.approx(0.95)
    assert seen.tokens_per_s == pytest.approx(7 / 0.95)
    assert seen.goodput_tokens_per_s == pytest.approx(4 / 0.95)
    assert seen.goodput_share == 1 / 5
    assert seen.tokens_per_delta == pytest.approx(7 / 6)
    assert seen.ttft_ms is not None and seen.ttft_ms.count == 3
    assert seen.itl_ms is not None and seen.itl_ms.count == 3
    assert seen.itl_per_token_ms is not None and seen.itl_per_token_ms.count == 4
    assert seen.total_ms is not None and seen.total_ms.maximum == pytest.approx(950)


def test_nothing_seen() -> None:
    seen = observe([], LIMITS)
    assert (seen.streams, seen.tokens_per_s, seen.ttft_ms, seen.itl_ms, seen.total_ms) == (
        0,
        0.0,
        None,
        None,
        None,
    )
