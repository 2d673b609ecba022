"""An engine loop whose steps the test makes."""

from __future__ import annotations

from app.errors import InvalidRequest
from app.schema.tokens import EngineFinish, Job, Steering, TokenBatch
from deployments.generator.server import GeneratorServer


class FakeJobLoop:
    """Implements `deployments.generator.server.JobLoop`. `refusal` is raised instead of accepting."""

    def __init__(self, server: GeneratorServer) -> None:
        self.healthy = True
        self.deterministic = True
        self.refusal: Exception | None = None
        self.prepared: list[Job] = []
        self.jobs: dict[tuple[str, int], Job] = {}
        self.paused: set[tuple[str, int]] = set()
        self.controls: list[tuple[str, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.steerings: list[tuple[int, Steering]] = []
        self._server = server
        self._counts: dict[tuple[str, int, int], int] = {}
        server.serve(self)

    def prepare(self, job: Job) -> None:
        self.prepared.append(job)

    def add(self, job: Job) -> None:
        if self.refusal is not None:
            raise self.refusal
        if (job.ingress, job.key) in self.jobs:
            raise InvalidRequest(f"The ingress already has a stream with the key {job.key}.")
        self.jobs[job.ingress, job.key] = job

    def abort(self, ingress: str, key: int) -> None:
        self.jobs.pop((ingress, key), None)

    def pause(self, ingress: str, key: int) -> None:
        self.paused.add((ingress, key))
        self.controls.append(("pause", key))

    def resume(self, ingress: str, key: int) -> None:
        self.paused.discard((ingress, key))
        self.controls.append(("resume", key))

    def end(self, ingress: str, key: int, choice: int) -> None:
        self.ended.append((key, choice))

    def steer(self, ingress: str, key: int, steering: Steering) -> None:
        self.steerings.append((key, steering))

    def step(self, tokens: int = 1, finish: EngineFinish | None = None) -> None:
        """Makes `tokens` tokens for each choice of each job: their numbers are their ids."""
        outputs: dict[str, list[TokenBatch]] = {}
        for (ingress, key), job in list(self.jobs.items()):
            for choice in range(job.n):
                position = self._counts.get((ingress, key, choice), 0)
                self._counts[ingress, key, choice] = position + tokens
                ids = list(range(position, position + tokens))
                outputs.setdefault(ingress, []).append(TokenBatch(key, choice, position, ids, finish))
            if finish is not None:
                del self.jobs[ingress, key]
        self._server.deliver(outputs)
