"""One choice of one stream inside the engine: its tokens, its place in memory, and when it ends."""

from __future__ import annotations

from enum import Enum

from app.schema.sampling import SamplingParams
from app.schema.tokens import EngineFinish, Job
from deployments.engine.extents import Extent
from deployments.engine.token_counts import TokenCounts


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    GONE = "gone"


class Sequence:
    """Owned by the engine's thread.

    `tokens` is the prompt and what was generated; the first `computed` of them have keys and values in
    `extent`. `arrival` orders sequences by age, also after a preemption. `siblings` are the choices of the
    same stream, itself among them. No token up to number `steered` ends the sequence, because tokens were put
    in there.
    """

    __slots__ = (
        "arrival",
        "choice",
        "computed",
        "counts",
        "extent",
        "ingress",
        "key",
        "prompt_length",
        "sampling",
        "siblings",
        "state",
        "steered",
        "tokens",
    )

    def __init__(self, job: Job, choice: int, arrival: int) -> None:
        generated = job.generated[choice] if job.generated else []
        self.ingress = job.ingress
        self.key = job.key
        self.choice = choice
        self.arrival = arrival
        self.sampling: SamplingParams = job.sampling
        self.prompt_length = len(job.prompt)
        self.tokens = job.prompt + generated
        self.computed = 0
        self.extent: Extent | None = None
        self.state = State.WAITING
        self.siblings: list[Sequence] = [self]
        self.steered = job.steered[choice] if job.steered else 0
        self.counts = TokenCounts.for_request(job.sampling, job.prompt, generated)

    @property
    def position(self) -> int:
        """The number that the next token has among the generated ones."""
        return len(self.tokens) - self.prompt_length

    @property
    def remaining(self) -> int:
        """Tokens whose keys and values are still to be computed; after the last of them a token can be
        sampled.
        """
        return len(self.tokens) - self.computed

    def append(self, token: int) -> None:
        """Takes a sampled token."""
        self.tokens.append(token)
        if self.counts is not None:
            self.counts.add(token)

    def steer(self, token_ids: list[int]) -> None:
        """Takes tokens that were put in."""
        for token in token_ids:
            self.append(token)
        self.steered = self.position

    def room(self, max_model_len_tokens: int) -> int:
        """How many tokens it may still get."""
        return min(self.sampling.max_tokens - self.position, max_model_len_tokens - len(self.tokens))

    def finish(
        self, end_ids: frozenset[int], max_model_len_tokens: int
    ) -> tuple[EngineFinish | None, int | None]:
        """Why the sequence ends with the tokens that it has, and the stop token that ended it; (None, None)
        if it goes on.
        """
        generated = self.position
        if generated > max(self.sampling.min_tokens, self.steered):
            last = self.tokens[-1]
            if last in self.sampling.stop_token_ids:
                return "stop", last
            if last in end_ids and not self.sampling.ignore_eos:
                return "stop", None
        if self.room(max_model_len_tokens) <= 0:
            return "length", None
        return None, None
