"""What every engine asks of a job before it takes it. This file imports no torch."""

from __future__ import annotations

from app.errors import InvalidRequest, PromptTooLong
from app.schema.tokens import Job


def open_choices(job: Job) -> list[int]:
    """The choices of a job that still need something."""
    return [choice for choice in range(job.n) if not (job.finished and job.finished[choice])]


def check_job(job: Job, vocab_size: int, max_model_len_tokens: int) -> None:
    """Raises `InvalidRequest` for what no engine could do, and `PromptTooLong` when the prompt leaves no room
    for a token.
    """
    if not job.prompt:
        raise InvalidRequest("The prompt has no tokens.", param="prompt")
    if job.n < 1 or len(job.generated) not in (0, job.n) or len(job.finished) not in (0, job.n):
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
