"""What every engine asks of a job before it takes it. This file imports no torch."""

from __future__ import annotations

from app.errors import InvalidRequest, Overloaded, PromptTooLong
from app.schema.tokens import Job


def open_choices(job: Job) -> list[int]:
    """The choices of a job that still need something."""
    return [choice for choice in range(job.n) if not (job.finished and job.finished[choice])]


def check_places(held: int, needed: int, max_sequences: int) -> None:
    """Raises `Overloaded` when `needed` more sequences have no place beside the `held` ones."""
    if held + needed > max_sequences:
        raise Overloaded(
            f"The model has {held} sequences of at most {max_sequences}; this request needs {needed} more.",
            retry_after_s=1,
        )


def check_job(job: Job, vocab_size: int, max_model_len_tokens: int) -> None:
    """Raises `InvalidRequest` for what no engine could do, and `PromptTooLong` when the prompt leaves no room
    for a token.
    """
    if not job.prompt:
        raise InvalidRequest("The prompt has no tokens.", param="prompt")
    if job.n < 1:
        raise InvalidRequest(f"The job has {job.n} choices; it needs at least 1.", param="n")
    for name, states in (("generated", job.generated), ("finished", job.finished), ("steered", job.steered)):
        if len(states) not in (0, job.n):
            raise InvalidRequest(
                f"{name} has {len(states)} entries; for {job.n} choices it must have {job.n} or none.",
                param="n",
            )
    if len(job.prompt) >= max_model_len_tokens:
        raise PromptTooLong(
            f"The prompt has {len(job.prompt)} tokens; this model takes at most {max_model_len_tokens - 1}.",
            param="prompt",
        )
    longest = len(job.prompt) + max((len(generated) for generated in job.generated), default=0)
    if longest > max_model_len_tokens:
        raise InvalidRequest(
            f"A choice has {longest} tokens with its prompt; the context of this model has {max_model_len_tokens}.",
            param="prompt",
        )
    named = [("prompt", ids) for ids in (job.prompt, *job.generated)]
    named += [
        ("logit_bias", list(job.sampling.logit_bias)),
        ("stop_token_ids", list(job.sampling.stop_token_ids)),
    ]
    for param, ids in named:
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            token = next(token for token in ids if not 0 <= token < vocab_size)
            raise InvalidRequest(
                f"The token id {token} is outside of the vocabulary of {vocab_size}.", param=param
            )
