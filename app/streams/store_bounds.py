"""How much a stream store keeps, and for how long."""

from __future__ import annotations

from typing import Self

import msgspec

from app.settings import Settings


class StoreBounds(msgspec.Struct, frozen=True, kw_only=True):
    """`retention_s` counts from a stream's ending, `max_age_s` from its creation, `lease_s` from a producer's last call."""

    max_streams: int = 10_000
    max_tokens: int = 20_000_000
    retention_s: float = 600.0
    max_age_s: float = 7_200.0
    lease_s: float = 3.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        streams = settings.streams
        return cls(
            max_streams=streams.max_streams,
            max_tokens=streams.max_tokens,
            retention_s=streams.retention_s,
            max_age_s=streams.retention_s + settings.limits.request_timeout_s,
            lease_s=streams.lease_s,
        )
