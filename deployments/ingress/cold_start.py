"""The start of a first replica, for a deployment that has none while nobody asks (`min_replicas: 0`).

Serve starts one when a call waits for a replica. Jobs don't come as calls, so there is one call for as long as anybody waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ray.serve.handle import DeploymentHandle

from app.backoff import Backoff
from app.errors import GeneratorUnavailable
from deployments.ingress.call_failure import RETRY_AFTER_S
from deployments.ingress.detached_task import detached_task
from deployments.ingress.handle_options import handle_options

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 5.0
POLL_S = 0.1


def cold_start_of(handle: DeploymentHandle[Any], timeout_s: float) -> ColdStart:
    """Of the deployment of `handle`."""
    addresses = handle.options(method_name="link_address", **handle_options())

    async def call() -> None:
        response = addresses.remote()
        try:
            await response
        finally:
            # The cancellation of this task does not reach a call that waits for its replica.
            response.cancel()  # type: ignore[no-untyped-call]

    return ColdStart(call, timeout_s)


class ColdStart:
    """`call` is a call to the deployment, which waits for a replica if there is none. Lives on one event loop."""

    def __init__(self, call: Callable[[], Awaitable[object]], timeout_s: float) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._waiting = 0
        self._asking: asyncio.Task[None] | None = None

    async def wait(self, ready: Callable[[], bool]) -> None:
        """Has a replica started until `ready`. Raises `GeneratorUnavailable` after `timeout_s`.

        When the last one that waits is cancelled, the call ends, and Serve does without the replica.
        """
        self._waiting += 1
        if self._asking is None:
            self._asking = detached_task(self._ask())
        try:
            async with asyncio.timeout(self._timeout_s):
                while not ready():  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise GeneratorUnavailable(
                f"No replica of the model has started within {self._timeout_s:g} s. Try again later.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._asking.cancel()
                self._asking = None

    async def _ask(self) -> None:
        """Calls until it is cancelled. A call that was answered does not help if its replica dies at once."""
        backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        while True:
            try:
                await self._call()
            except asyncio.CancelledError:
                # When the replica cancels the call, Serve raises this here as well.
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise
            except Exception as error:
                logger.info("No replica has started yet: %s", type(error).__name__)
            await backoff.pause()
