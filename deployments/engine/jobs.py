"""What every engine asks of a job before it takes it. This file imports no torch."""

from __future__ import annotations

from app.errors import InvalidRequest, PromptTooLong
from app.schema.tokens import Edit, Job, Steering, TokenBatch, steered_logprobs


def open_choices(job: Job) -> list[int]:
    """The choices of a job that still need something."""
    return [choice for choice in range(job.n) if not (job.finished and job.finished[choice])]


def check_job(job: Job, vocab_size: int, max_model_len_tokens: int) -> None:
    """Raises `InvalidRequest` for what no engine could do, and `PromptTooLong` when the prompt leaves no room
    for a token.
    """
    if not job.prompt:
        raise InvalidRequest("The prompt has no tokens.", param="prompt")
    lengths = {len(job.generated), len(job.finished), len(job.steered)}
    if job.n < 1 or not lengths <= {0, job.n}:
        raise InvalidRequest("What is handed over does not fit the number of choices.", param="n")
    if len(job.prompt) >= max_model_len_tokens:
        raise PromptTooLong(
            f"The prompt has {len(job.prompt)} tokens; this model takes at most {max_model_len_tokens - 1}.",
            param="prompt",
        )
    longest = max((len(generated) for generated in job.generated), default=0)
    if len(job.prompt) + longest > max_model_len_tokens:
        raise InvalidRequest("What is handed over is longer than the model's context.", param="prompt")
    for ids in (job.prompt, *job.generated):
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            raise InvalidRequest(f"A token id is outside of the vocabulary of {vocab_size}.", param="prompt")
    for param, named in (
        ("logit_bias", job.sampling.logit_bias),
        ("stop_token_ids", job.sampling.stop_token_ids),
    ):
        if any(not 0 <= token < vocab_size for token in named):
            raise InvalidRequest(f"A token id is outside of the vocabulary of {vocab_size}.", param=param)


class SteeringRecord:
    """Which steerings each stream has had, so that none is applied twice."""

    def __init__(self) -> None:
        self._had: dict[tuple[str, int], set[str]] = {}

    def is_new(self, stream: tuple[str, int], steering: Steering) -> bool:
        """Whether the stream has not had `steering`. From now on it has."""
        had = self._had.setdefault(stream, set())
        known = steering.id in had
        had.add(steering.id)
        return not known

    def forget(self, stream: tuple[str, int]) -> None:
        """The stream is over."""
        self._had.pop(stream, None)


def steered_batch(
    key: int,
    choice: int,
    position: int,
    steering: Steering,
    token_ids: list[int],
    with_logprobs: bool,
    ends: bool,
) -> TokenBatch:
    """What an engine puts out for tokens that were put in: `token_ids` are those that there was room for."""
    return TokenBatch(
        key,
        choice,
        position,
        token_ids,
        "length" if ends else None,
        None,
        steered_logprobs(len(token_ids)) if with_logprobs else None,
        None,
        [Edit(id=steering.id, position=position, steered=len(token_ids))],
    )
