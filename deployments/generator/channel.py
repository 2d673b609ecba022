"""The generator's end of the channels: delivers the output of each step to the ingress processes.

Delivery of a step is one `put` for each ingress, however many streams it has. Only the batches that end a choice are looked
at one by one, because the `generate` call of their job ends with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from app.errors import InvalidRequest, Overloaded
from app.schema.tokens import TRIAL_S, Job, TokenBatch
from deployments.generator.outbox import Outbox, OutboxReader
from deployments.messages.generation import BEAT_S

IDLE_OUTBOX_S = 30.0
TRIAL_STEPS = 3
"""Steps with tokens of a job on trial after which its ingress surely has the first of them."""


class ChannelServer:
    """The outboxes of one generator replica. There are no beats while `healthy`, asked of the engine, returns false."""

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy
        self._outboxes: dict[str, Outbox] = {}
        self._idle_beats: dict[str, int] = {}
        self._jobs: dict[tuple[str, int], RunningJob] = {}
        self._trial: RunningJob | None = None

    @property
    def jobs(self) -> int:
        return len(self._jobs)

    @property
    def is_idle(self) -> bool:
        """Whether no job is left and every open channel has taken everything."""
        return not self._jobs and not any(outbox.has_waiting for outbox in self._outboxes.values())

    def deliver(self, outputs: Mapping[str, list[TokenBatch]]) -> None:
        """Takes the output of one engine step. Called on the event loop, once for each step."""
        trial = self._trial
        if trial is not None and any(batch.key == trial.key for batch in outputs.get(trial.ingress, ())):
            trial.trial_steps += 1
        for ingress, batches in outputs.items():
            self._outbox(ingress).put(batches)
            for batch in batches:
                if batch.finish is not None and (job := self._jobs.get((ingress, batch.key))) is not None:
                    job.choice_ended()

    def attach(self, ingress: str, after: int) -> OutboxReader:
        """Opens the channel of `ingress`, which has the messages up to number `after`. Ends its previous channel."""
        return self._outbox(ingress).attach(after)

    def register(self, job: Job) -> RunningJob:
        """Counts the choices of `job` until they have ended. Call it before the engine gets the job, and `forget` at the end.

        Raises `InvalidRequest` while another job of this ingress has the key, and `Overloaded` for a job on trial while another
        one is.
        """
        if (job.ingress, job.key) in self._jobs:
            raise InvalidRequest(f"The ingress already has a job with the key {job.key}.")
        if job.on_trial and self._trial is not None and self._trial.is_on_trial:
            raise Overloaded("The replica tries another stream.", retry_after_s=1)
        running = RunningJob(job)
        if job.on_trial:
            self._trial = running
        self._jobs[job.ingress, job.key] = running
        return running

    def forget(self, job: Job) -> None:
        if self._jobs.pop((job.ingress, job.key), None) is self._trial:
            self._trial = None

    async def beat(self) -> None:
        """Sends a beat on every channel each `BEAT_S` seconds, until cancelled.

        Forgets the outboxes of ingress processes that have had neither a channel nor a job for `IDLE_OUTBOX_S` seconds.
        """
        while True:
            await asyncio.sleep(BEAT_S)
            if self._healthy():
                for outbox in self._outboxes.values():
                    outbox.beat()
            busy = {ingress for ingress, _ in self._jobs}
            for ingress, outbox in list(self._outboxes.items()):
                if outbox.attached or ingress in busy:
                    self._idle_beats.pop(ingress, None)
                    continue
                self._idle_beats[ingress] = self._idle_beats.get(ingress, 0) + 1
                if self._idle_beats[ingress] * BEAT_S >= IDLE_OUTBOX_S:
                    del self._outboxes[ingress], self._idle_beats[ingress]

    def _outbox(self, ingress: str) -> Outbox:
        outbox = self._outboxes.get(ingress)
        if outbox is None:
            outbox = self._outboxes[ingress] = Outbox()
        return outbox


class RunningJob:
    """A job in the engine, until each of its choices has ended. `trial_steps` are those that brought tokens of a job on trial."""

    def __init__(self, job: Job) -> None:
        self.ingress = job.ingress
        self.key = job.key
        self.trial_steps = 0
        self._trial_ends_s = asyncio.get_running_loop().time() + TRIAL_S
        self._choices_left = job.n - sum(job.finished)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._choices_left == 0:
            self._ended.set_result(None)

    @property
    def is_on_trial(self) -> bool:
        """Of a job on trial: whether its ingress may not have its first tokens yet."""
        waits = asyncio.get_running_loop().time() < self._trial_ends_s
        return waits and self.trial_steps < TRIAL_STEPS

    def choice_ended(self) -> None:
        self._choices_left -= 1
        if self._choices_left == 0 and not self._ended.done():
            self._ended.set_result(None)

    async def ended(self) -> None:
        """Returns when the engine has made the last batch of the job."""
        await self._ended
