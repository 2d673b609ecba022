"""When a call is made again: how often, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from streaming_inference.clock import Clock
from streaming_inference.errors import ClientError


@dataclass(frozen=True)
class RetryPolicy:
    """Up to `retries` repetitions in a row. Each frame that arrives resets the count.

    The delay begins with `first_delay_s` and doubles up to `max_delay_s`. A random part of up to one half is taken off, so that
    the clients of a server that restarts come back one by one. `Retry-After` is obeyed up to `max_retry_after_s`; a call that
    would have to wait longer fails instead.
    """

    retries: int = 8
    first_delay_s: float = 0.2
    max_delay_s: float = 5.0
    max_retry_after_s: float = 60.0

    def delay_s(self, failures: int, retry_after_s: float | None, chance: float) -> float:
        """Seconds to wait after `failures` failures in a row. `chance` is a random number from 0 to 1."""
        longest_s = min(self.max_delay_s, self.first_delay_s * 2.0 ** min(failures - 1, 64))
        return max(longest_s * (1 - chance / 2), retry_after_s or 0.0)


class Retries:
    """The failures in a row of one call or one stream."""

    def __init__(
        self, policy: RetryPolicy, clock: Clock, chance: Callable[[], float] = random.random
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._failures = 0

    def succeeded(self) -> None:
        """A frame or an answer has come: the count is 0 again."""
        self._failures = 0

    async def wait(self, error: ClientError) -> None:
        """Returns when it is time to repeat the call. Raises `error` if it is not retryable or the retries are used up."""
        self._failures += 1
        retry_after_s = error.retry_after_s or 0
        if (
            not error.retryable
            or self._failures > self._policy.retries
            or retry_after_s > self._policy.max_retry_after_s
        ):
            raise error
        await self._clock.sleep(self._policy.delay_s(self._failures, retry_after_s, self._chance()))
