"""What every engine knows of one choice of a job: whose it is, and when it ends. This file imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from app.schema.tokens import EngineFinish, Job


def longest_wait_s(waiting: Iterable[JobChoice], now_s: float) -> float:
    """How long the choice has waited that has waited longest; 0 when there is none."""
    return max((now_s - choice.queued_s for choice in waiting), default=0.0)


class JobChoice:
    """One choice of a job, as a sequence of tokens that a subclass keeps.

    `position` is the number of generated tokens, and so the number of the next one; `last_token` is the id of the
    latest. With `max_tokens` generated tokens the sequence ends, because of the request or the context length. No
    token up to number `steered` ends it, because a steering placed tokens there. `queued_s` is the time, by the clock of its
    engine, at which it began to wait for its place. `has_diverged`: a token that was handed over is not the one that the engine
    chooses.
    """

    __slots__ = (
        "choice", "has_diverged", "ingress", "key", "max_tokens", "prompt_length", "queued_s", "sampling", "steered",
    )  # fmt: skip

    def __init__(self, job: Job, choice: int, max_model_len_tokens: int) -> None:
        self.ingress = job.ingress
        self.key = job.key
        self.choice = choice
        self.sampling = job.sampling
        self.prompt_length = len(job.prompt)
        self.max_tokens = min(job.sampling.max_tokens, max_model_len_tokens - len(job.prompt))
        self.steered = job.steered[choice] if job.steered else 0
        self.queued_s = 0.0
        self.has_diverged = False

    @property
    def position(self) -> int:
        raise NotImplementedError

    @property
    def last_token(self) -> int:
        raise NotImplementedError

    def steer(self, token_ids: list[int]) -> None:
        """Appends the tokens of a steering. None of them ends the sequence."""
        raise NotImplementedError

    @property
    def room(self) -> int:
        """How many tokens it may still get."""
        return self.max_tokens - self.position

    def finish(self, end_ids: frozenset[int]) -> tuple[EngineFinish | None, int | None]:
        """Why the sequence ends with the tokens that it has, and the stop token that ended it; (None, None) if it
        goes on. `end_ids` are the model's own end tokens.
        """
        position = self.position
        if position > max(self.sampling.min_tokens, self.steered):
            last = self.last_token
            if last in self.sampling.stop_token_ids:
                return "stop", last
            if last in end_ids and not self.sampling.ignore_eos:
                return "stop", None
        if position >= self.max_tokens:
            return "length", None
        return None, None
