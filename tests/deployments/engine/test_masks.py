"""What the masks of a step do to its logits."""

from __future__ import annotations

import torch

from deployments.engine.masks import apply_masks

INF = float("inf")


def test_only_the_tokens_of_a_mask_are_left_in_its_row() -> None:
    logits = torch.arange(30, dtype=torch.float32).view(3, 10)
    plain = logits.clone()
    apply_masks(logits, [bytes([0b00000101, 0b10]), None, bytes([0, 0b01])])
    assert logits[0].tolist() == [0.0, -INF, 2.0, *[-INF] * 6, 9.0]
    assert logits[1].equal(plain[1])
    assert logits[2].tolist() == [*[-INF] * 8, 28.0, -INF]


def test_all_rows_may_have_one_or_none() -> None:
    logits = torch.ones(2, 4)
    apply_masks(logits, [None, None])
    assert logits.tolist() == [[1.0] * 4] * 2
    apply_masks(logits, [b"\x01\xff", b"\x08\xff"])
    assert logits.tolist() == [[1.0, -INF, -INF, -INF], [-INF, -INF, -INF, 1.0]]


def test_a_number_that_is_not_finite_is_still_seen() -> None:
    for broken in (float("nan"), INF):
        logits = torch.tensor([[0.0, broken, 0.0, 0.0]])
        apply_masks(logits, [b"\x01"])
        assert not logits.max(dim=-1).values.isfinite().item()
