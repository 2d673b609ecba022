from __future__ import annotations

import pytest

from deployments.engine.key_count import key_count, lone_count, next_cut


@pytest.mark.parametrize(
    ("tokens", "keys"),
    [
        (0, 64),
        (1, 64),
        (64, 64),
        (65, 128),
        (193, 256),
        (257, 320),
        (321, 384),
        (384, 384),
        (385, 512),
        (512, 512),
        (513, 576),
        (1000, 1024),
    ],
)
def test_whole_blocks_and_a_number_that_agrees_with_them(tokens: int, keys: int) -> None:
    assert key_count(tokens) == keys


def test_more_tokens_never_have_fewer_keys() -> None:
    counts = [key_count(tokens) for tokens in range(3000)]
    assert counts == sorted(counts)


def test_tokens_of_one_call_have_the_same_lone_count() -> None:
    for tokens in range(1, 2000):
        cut = next_cut(tokens)
        assert {lone_count(count) for count in range(tokens, cut + 1)} == {lone_count(tokens)}
        assert lone_count(cut + 1) != lone_count(tokens)


def test_a_lone_count_is_the_key_count_of_all_its_tokens() -> None:
    lone = {tokens: lone_count(tokens) for tokens in range(1, 1025) if lone_count(tokens)}
    assert sorted(lone) == [*range(193, 385), *range(705, 897)]
    assert all(count == key_count(tokens) for tokens, count in lone.items())
