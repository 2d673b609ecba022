"""One job on one replica: the call that starts it, its acceptance, its controls and its end.

The call stays open until the job has ended. It runs in a task of its own, so that the stream can leave at any moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.errors import GeneratorUnavailable, ServiceError
from app.ports import TokenSink
from app.schema.tokens import Job, Steering
from deployments.ingress.call_failure import RETRY_AFTER_S, as_service_error
from deployments.ingress.controls import ControlSender
from deployments.ingress.detached_task import detached_task
from deployments.ingress.replica_links import ReplicaLinks
from deployments.links.connection import StreamingCall
from deployments.links.link import LinkBusy
from deployments.messages.call import decode_reply, encode
from deployments.messages.generation import Generate


class Attempt:
    """A job of this process on `replica`, from before its call to its end. Implements `app.ports.Generation`. To be closed.

    The call starts with the construction. `open_choices` are those that the engine has not ended. `refused`: the replica does not
    have the job, and never had it. `on_lost` is called once if the call breaks after the acceptance.
    `deterministic` is that of the replica, and set by the owner of its channel.
    """

    def __init__(
        self,
        job: Job,
        sink: TokenSink,
        replica: str,
        links: ReplicaLinks,
        controls: ControlSender,
        *,
        on_lost: Callable[[Attempt], None],
    ) -> None:
        self.key = job.key
        self.sink = sink
        self.replica = replica
        self.open_choices = {choice for choice in range(job.n) if not (job.finished and job.finished[choice])}
        self.is_accepted = False
        self.deterministic = False
        self.refused = False
        self._controls = controls
        self._on_lost = on_lost
        self._acceptance: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = detached_task(self._run(links, Generate(job)))

    async def accepted(self, timeout_s: float) -> None:
        """Returns when the replica has taken the job. Raises the `ServiceError` that prevents it."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._acceptance
        except TimeoutError:
            raise GeneratorUnavailable(
                f"The replica did not accept the job within {timeout_s:g} s. Try again.",
                retry_after_s=RETRY_AFTER_S,
            ) from None

    def pause(self) -> None:
        self._controls.send(self.replica, self.key, "pause")

    def resume(self) -> None:
        self._controls.send(self.replica, self.key, "resume")

    def end(self, choice: int) -> None:
        if choice in self.open_choices:
            self._controls.end(self.replica, self.key, choice)

    def steer(self, steering: Steering) -> None:
        self._controls.steer(self.replica, self.key, steering)

    def close(self) -> None:
        """Ends the call, and the job with it if that has not ended. Returns at once. Idempotent."""
        self._task.cancel()

    async def _run(self, links: ReplicaLinks, request: Generate) -> None:
        """Makes the call and follows it to its end."""
        call: StreamingCall | None = None
        try:
            call = links.to(self.replica).streaming_call(encode(request))
            async for reply in call:
                decode_reply(request, reply)
                self.is_accepted = True
                if not self._acceptance.done():
                    self._acceptance.set_result(None)
            if not self.is_accepted:
                raise ConnectionError("the call ended without a reply")
        except Exception as error:
            if self.is_accepted:
                self._on_lost(self)
                return
            self.refused = call is None or isinstance(error, (ServiceError, LinkBusy))
            if not self._acceptance.done():
                self._acceptance.set_exception(as_service_error(error, "generator"))
                self._acceptance.exception()  # a stream that has left can't retrieve it
        finally:
            if call is not None:
                call.cancel()
