"""One `generate` call: starts a job on a replica, says whether that takes it, and stays open until the job has ended.

The call runs in a task of its own, so that the caller can leave at any moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.errors import GeneratorUnavailable, ServiceError
from app.schema.tokens import Job
from deployments.calls import Call, GeneratorCalls, detached
from deployments.channel import Accepted, decode_answer
from deployments.faults import RETRY_AFTER_S, from_call
from deployments.refusal import from_refusal

LINGER_S = 5.0


class GenerateCall:
    """Made when constructed. To be closed."""

    def __init__(self, calls: GeneratorCalls, replica: str, job: Job, *, accept_timeout_s: float) -> None:
        self.replica = replica
        self._calls = calls
        self._accept_timeout_s = accept_timeout_s
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_broken: Callable[[], None] | None = None
        self._broken = False
        self._task = detached(self._run(job))

    async def accepted(self) -> None:
        """Returns when the replica has taken the job. Raises the `ServiceError` that prevented it.

        After `Overloaded` the replica knows nothing of the job. After any other error it may be at it until the call is closed.
        """
        try:
            async with asyncio.timeout(self._accept_timeout_s):
                await self._accepted
        except TimeoutError:
            raise GeneratorUnavailable(
                "The replica did not take the job in time. Try again.", retry_after_s=RETRY_AFTER_S
            ) from None

    def on_broken(self, callback: Callable[[], None]) -> None:
        """Has `callback` called if the call breaks after its acceptance; at once if it has."""
        self._on_broken = callback
        if self._broken:
            callback()

    def close(self, *, cancel: bool) -> None:
        """Ends the call: at once, or in its own time if its job has ended. Returns at once. Idempotent."""
        self._on_broken = None
        if cancel:
            self._task.cancel()
        elif not self._task.done():
            asyncio.get_running_loop().call_later(LINGER_S, self._task.cancel)

    async def _run(self, job: Job) -> None:
        call: Call | None = None
        try:
            call = self._calls.generate(self.replica, job)
            async for answer in call:
                self._answered(answer)
            self._break(
                GeneratorUnavailable("The replica gave no answer. Try again.", retry_after_s=RETRY_AFTER_S)
            )
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            # The other side has cancelled the call.
            self._break(
                GeneratorUnavailable("The replica is stopping. Try again.", retry_after_s=RETRY_AFTER_S)
            )
            self._call_broke()
        except Exception as error:
            self._break(from_call(error, "generator"))
            self._call_broke()
        finally:
            if call is not None:
                call.cancel()

    def _answered(self, data: bytes) -> None:
        answer = decode_answer(data)
        if isinstance(answer, Accepted):
            if not self._accepted.done():
                self._accepted.set_result(None)
        else:
            self._break(from_refusal(answer))

    def _break(self, error: ServiceError) -> None:
        """Fails the acceptance if it is still awaited."""
        if not self._accepted.done():
            self._accepted.set_exception(error)
            self._accepted.exception()  # a caller who has left can't retrieve it

    def _call_broke(self) -> None:
        self._broken = True
        if self._on_broken is not None:
            self._on_broken()
