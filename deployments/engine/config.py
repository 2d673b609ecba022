"""The bounds of one engine. Every queue and memory in it has its limit here. This file imports no torch."""

from __future__ import annotations

from typing import Literal

import msgspec

from app.settings import ModelSettings


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sequences count each choice of a stream. Memory is in tokens, of all sequences together. `max_model_len_tokens` None is the
    model's own length, as far as the memory holds one such sequence.

    A step takes prompt tokens beside the running streams for about `prefill_chunk_ms`, and at most `prefill_chunk_tokens` of
    them. So long the running streams wait for their next token. `batch_invariant`: the logits of a token don't depend on what
    else is computed. `on_divergence`: whether a choice goes on when the engine would have chosen another token than one that was
    handed over, or ends with an error.
    """

    max_model_len_tokens: int | None = None
    max_running_sequences: int = 32
    max_waiting_sequences: int = 64
    kv_cache_tokens: int = 65536
    prefill_chunk_tokens: int = 512
    prefill_chunk_ms: int = 150
    batch_invariant: bool = True
    on_divergence: Literal["continue", "fail"] = "continue"

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if type(value) is int and value < 1:
                raise ValueError(f"{name} is {value}, it must be at least 1")
        if self.on_divergence not in ("continue", "fail"):
            raise ValueError(f"on_divergence is {self.on_divergence}, it must be continue or fail")
        if self.max_model_len_tokens is not None and self.kv_cache_tokens < self.max_model_len_tokens:
            raise ValueError(
                f"kv_cache_tokens ({self.kv_cache_tokens}) can't hold one sequence of max_model_len_tokens "
                f"({self.max_model_len_tokens})"
            )

    @classmethod
    def from_settings(cls, settings: ModelSettings) -> EngineConfig:
        """The engine's part of a model's settings."""
        return cls(**{name: getattr(settings, name) for name in cls.__struct_fields__})

    @property
    def max_sequences(self) -> int:
        """Sequences that the engine holds at once, paused ones included."""
        return self.max_running_sequences + self.max_waiting_sequences
