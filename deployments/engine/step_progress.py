"""Progress inside a step, so that a long step is not taken for a hung one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from deployments.engine.attention import AttentionStep, Heads


class StepProgress:
    """An `AttentionStep` that reports progress in every layer, before it lets `step` attend."""

    __slots__ = ("_progress", "_step")

    def __init__(self, step: AttentionStep, progress: Callable[[], None]) -> None:
        self._step = step
        self._progress = progress

    def attend(self, layer: int, query: Heads, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """`key`: (tokens, kv_heads, key_dim); `value`: (tokens, kv_heads, value_dim). Returns (tokens, heads, value_dim)."""
        self._progress()
        return self._step.attend(layer, query, key, value)
