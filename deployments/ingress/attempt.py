"""One `generate` call: starts a job on a replica, says whether that takes it, and stays open until the job has ended.

The call runs in a task of its own, so that the caller can leave at any moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.errors import GeneratorUnavailable, ServiceError
from app.schema.tokens import Job
from deployments.ingress.calls import Call, GeneratorCalls, detached
from deployments.ingress.faults import RETRY_AFTER_S, from_call
from deployments.links.link import LinkBusy
from deployments.messages.generation import Accepted, decode_answer
from deployments.messages.refusal import from_refusal


class GenerateCall:
    """Made when constructed. To be closed. `refused`: the replica has nothing of the job, and had nothing of it."""

    def __init__(self, calls: GeneratorCalls, replica: str, job: Job, *, accept_timeout_s: float) -> None:
        self.replica = replica
        self.refused = False
        self._calls = calls
        self._accept_timeout_s = accept_timeout_s
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_broken: Callable[[], None] | None = None
        self._broken = False
        self._task = detached(self._run(job))

    async def accepted(self) -> None:
        """Returns when the replica has taken the job. Raises the `ServiceError` that prevented it."""
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

    def close(self) -> None:
        """Ends the call, and the job with it if that has not ended. Returns at once. Idempotent."""
        self._on_broken = None
        self._task.cancel()

    async def _run(self, job: Job) -> None:
        try:
            call = self._calls.generate(self.replica, job)
        except Exception as error:
            self._refuse(from_call(error, "generator"))
            return
        try:
            await self._attend(call)
        except LinkBusy as error:
            self._refuse(from_call(error, "generator"))
        except Exception as error:
            self._break(from_call(error, "generator"))
        finally:
            call.cancel()

    async def _attend(self, call: Call) -> None:
        async for data in call:
            answer = decode_answer(data)
            if not isinstance(answer, Accepted):
                self._refuse(from_refusal(answer))
            elif not self._accepted.done():
                self._accepted.set_result(None)
        self._fail(
            GeneratorUnavailable("The replica gave no answer. Try again.", retry_after_s=RETRY_AFTER_S)
        )

    def _refuse(self, error: ServiceError) -> None:
        self.refused = True
        self._fail(error)

    def _break(self, error: ServiceError) -> None:
        self._fail(error)
        self._broken = True
        if self._on_broken is not None:
            self._on_broken()

    def _fail(self, error: ServiceError) -> None:
        """Fails the acceptance if it is still awaited."""
        if not self._accepted.done():
            self._accepted.set_exception(error)
            self._accepted.exception()  # a caller who has left can't retrieve it
