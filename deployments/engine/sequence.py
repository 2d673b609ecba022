"""One choice of one stream inside the engine: its tokens, its state, and its place in memory."""

from __future__ import annotations

from enum import Enum

from app.schema.tokens import Job
from deployments.engine.extents import Extent
from deployments.engine.job_choice import JobChoice
from deployments.engine.matcher import Matcher
from deployments.engine.token_counts import TokenCounts

_AHEAD = 1 << 62
"""More than any engine has sequences."""


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    GONE = "gone"


class Sequence(JobChoice):
    """Owned by the engine's thread.

    `tokens` is the prompt and what was generated; the first `computed` of them have keys and values in `extent`. `arrival` orders
    sequences by age, also after a preemption; one `on_trial` counts as older than all others. `siblings` are the choices of the
    same stream, itself among them. `passed`: how many younger ones got memory while it found none. `pause_asked`: it is to be
    paused when it has `paid_from` generated tokens. Of its `handed_over` tokens, those from number `checked` on have not been
    compared with what the engine chooses itself. Steered ones, and those before them, are not compared.
    `matcher` belongs to the thread that fills the masks.
    """

    __slots__ = (
        "arrival",
        "checked",
        "computed",
        "counts",
        "extent",
        "handed_over",
        "matcher",
        "on_trial",
        "paid_from",
        "passed",
        "pause_asked",
        "siblings",
        "state",
        "tokens",
    )

    def __init__(self, job: Job, choice: int, max_model_len_tokens: int, arrival: int) -> None:
        super().__init__(job, choice, max_model_len_tokens)
        generated = job.generated[choice] if job.generated else []
        self.arrival = arrival - _AHEAD if job.on_trial else arrival
        self.on_trial = job.on_trial
        self.tokens = job.prompt + generated
        self.computed = 0
        self.extent: Extent | None = None
        self.state = State.WAITING
        self.siblings: list[Sequence] = [self]
        self.passed = 0
        self.paid_from = 0
        self.pause_asked = False
        self.matcher: Matcher | None = None
        self.checked = self.steered
        self.handed_over = len(generated)
        self.counts = TokenCounts.for_request(job.sampling, job.prompt, generated)

    @property
    def position(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def last_token(self) -> int:
        return self.tokens[-1]

    @property
    def remaining(self) -> int:
        """Tokens whose keys and values are still to be computed; after the last of them a token can be
        sampled.
        """
        return len(self.tokens) - self.computed

    def append(self, token: int) -> None:
        """Appends a sampled token."""
        self.tokens.append(token)
        if self.counts is not None:
            self.counts.add(token)

    def steer(self, token_ids: list[int]) -> None:
        for token in token_ids:
            self.append(token)
        self.steered = self.position
