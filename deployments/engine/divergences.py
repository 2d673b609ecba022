"""What becomes of handed-over tokens that this engine would have chosen otherwise. This file imports no torch.

A job that another engine has begun comes with the tokens that were sent to the client. Where greedy or seeded sampling gives
another token at such a position, the two don't agree, by their numbers, their software or their weights. That is a divergence.
"""

from __future__ import annotations

import logging
from typing import Literal

from deployments.engine.job_choice import JobChoice

logger = logging.getLogger(__name__)

DIVERGED = "The generator does not agree with the tokens that were sent before it took over."
"""For the client of a choice that ends of it."""


class Divergences:
    """Counts them, and logs the first one of each choice. `dtype` is that of the engine's numbers."""

    def __init__(self, on_divergence: Literal["continue", "fail"], dtype: str) -> None:
        self.count = 0
        self._fails = on_divergence == "fail"
        self._dtype = dtype

    def compare(self, choice: JobChoice, position: int, sent: int, recomputed: int) -> bool:
        """Whether `choice` is to end, because its token number `position` is not the one that was sent."""
        if recomputed == sent:
            return False
        self.count += 1
        if not choice.has_diverged:
            choice.has_diverged = True
            logger.warning(
                "choice %d of stream %d of %s diverges: its token %d was sent as %d and is recomputed as %d, in %s",
                choice.choice,
                choice.key,
                choice.ingress,
                position,
                sent,
                recomputed,
                self._dtype,
            )
        return self._fails
