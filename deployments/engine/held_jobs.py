"""The jobs that an engine loop has accepted and that have not ended. They decide on admission, outside of the steps.

Not thread-safe: the loop holds its lock. The counts follow the commands in the order in which they are queued, so they are
never below what the engine has when it takes the next job: what is admitted here finds its place there.
"""

from __future__ import annotations

from app.errors import InvalidRequest
from app.schema.tokens import Job, TokenBatch
from deployments.engine.jobs import check_places, open_choices
from deployments.engine.protocol import Outputs


class _HeldJob:
    """`is_taken`: the engine has it. Endings that come before are those of an aborted job with the same key."""

    __slots__ = ("is_taken", "job", "open")

    def __init__(self, job: Job, choices: list[int]) -> None:
        self.job = job
        self.open = set(choices)
        self.is_taken = False


class HeldJobs:
    """Admits jobs while their choices fit into `max_sequences` places."""

    def __init__(self, max_sequences: int) -> None:
        self.places = 0
        self._max_sequences = max_sequences
        self._jobs: dict[tuple[str, int], _HeldJob] = {}

    def admit(self, job: Job) -> None:
        """Raises `Overloaded`, and `InvalidRequest` for a key that is in use; then nothing is kept."""
        if (job.ingress, job.key) in self._jobs:
            raise InvalidRequest(f"The ingress already has a stream with the key {job.key}.")
        choices = open_choices(job)
        check_places(self.places, len(choices), self._max_sequences)
        if choices:
            self.places += len(choices)
            self._jobs[job.ingress, job.key] = _HeldJob(job, choices)

    def taken(self, job: Job) -> None:
        """The engine gets the job now. Does nothing for a job that was dropped."""
        held = self._jobs.get((job.ingress, job.key))
        if held is not None and held.job is job:
            held.is_taken = True

    def drop(self, ingress: str, key: int) -> None:
        """Forgets an aborted job. Does nothing for one that is not held."""
        held = self._jobs.pop((ingress, key), None)
        if held is not None:
            self.places -= len(held.open)

    def ended(self, outputs: Outputs) -> None:
        """Frees the places of the choices that end with `outputs`."""
        for ingress, batches in outputs.items():
            for batch in batches:
                if batch.finish is None:
                    continue
                held = self._jobs.get((ingress, batch.key))
                if held is not None and held.is_taken and batch.choice in held.open:
                    held.open.remove(batch.choice)
                    self.places -= 1
                    if not held.open:
                        del self._jobs[ingress, batch.key]

    def fail_all(self, message: str) -> Outputs:
        """An error batch for each open choice, for when the engine itself can't say it. Forgets all jobs."""
        jobs, self._jobs, self.places = self._jobs, {}, 0
        outputs: Outputs = {}
        for held in jobs.values():
            outputs.setdefault(held.job.ingress, []).extend(
                error_batches(held.job, message, sorted(held.open))
            )
        return outputs


def error_batches(job: Job, message: str, choices: list[int]) -> list[TokenBatch]:
    """The endings of `choices` of a job, as if they had got no token of this engine."""
    return [
        TokenBatch(
            job.key, choice, len(job.generated[choice]) if job.generated else 0, [], "error", error=message
        )
        for choice in choices
    ]
