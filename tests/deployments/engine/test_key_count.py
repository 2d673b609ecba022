from __future__ import annotations

import pytest

from deployments.engine.key_count import key_count


@pytest.mark.parametrize(
    ("tokens", "keys"),
    [
        (0, 64),
        (1, 64),
        (64, 64),
        (65, 128),
        (193, 384),
        (352, 384),
        (353, 512),
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
