from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.schema.sampling import SamplingParams
from deployments.engine.token_counts import TokenCounts

TOKENS = st.lists(st.integers(0, 300), max_size=200)


@given(TOKENS, TOKENS, TOKENS)
def test_counts_are_those_of_the_output_and_tokens_those_of_both(
    prompt: list[int], generated: list[int], later: list[int]
) -> None:
    counts = TokenCounts(prompt, generated)
    for number, token in enumerate(later):
        counts.add(token)
        assert len(counts) == len({*prompt, *generated, *later[: number + 1]})
    tokens, values = counts.tokens.tolist(), counts.counts.tolist()
    assert sorted(tokens) == sorted({*prompt, *generated, *later})
    counted = Counter(generated + later)
    assert dict(zip(tokens, values, strict=True)) == {token: counted[token] for token in tokens}


@given(TOKENS, TOKENS, TOKENS)
def test_a_copy_stays_as_it_was(prompt: list[int], before: list[int], later: list[int]) -> None:
    counts = TokenCounts(prompt, [])
    for token in before:
        counts.add(token)
    copy = counts.copy()
    for token in later:
        counts.add(token)
    wanted = TokenCounts(prompt, before)
    assert sorted(zip(copy.tokens.tolist(), copy.counts.tolist(), strict=True)) == sorted(
        zip(wanted.tokens.tolist(), wanted.counts.tolist(), strict=True)
    )


def test_a_prompt_is_counted_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not token by token: the engine's thread does it, and every stream waits for that."""
    monkeypatch.delattr(TokenCounts, "_place")
    assert len(TokenCounts(range(32_000), range(100))) == 32_000


def test_there_is_room_for_any_number_of_new_tokens() -> None:
    counts = TokenCounts((), ())
    for token in range(500):
        counts.add(token)
    assert counts.counts.tolist() == [1.0] * 500


def test_only_penalties_need_counts() -> None:
    assert TokenCounts.for_request(SamplingParams(max_tokens=1), [1], [2]) is None
    repetition = TokenCounts.for_request(SamplingParams(max_tokens=1, repetition_penalty=1.2), [1], [2])
    presence = TokenCounts.for_request(SamplingParams(max_tokens=1, presence_penalty=0.5), [1], [2])
    assert repetition is not None and repetition.tokens.tolist() == [1, 2]
    assert presence is not None and presence.tokens.tolist() == [2]
