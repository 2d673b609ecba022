"""What the sampler reads of a sequence whose next token it chooses."""

from __future__ import annotations

from typing import Protocol

from app.schema.sampling import SamplingParams
from deployments.engine.token_counts import TokenCounts


class SampledSequence(Protocol):
    """A sequence with `position` generated tokens. `counts`: those of its tokens; None where no penalty needs them."""

    @property
    def sampling(self) -> SamplingParams: ...

    @property
    def choice(self) -> int: ...

    @property
    def position(self) -> int: ...

    @property
    def counts(self) -> TokenCounts | None: ...
