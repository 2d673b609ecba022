"""Greedy output equals `model.generate` token for token, on every family that is promised, alone and in mixed
batches.
"""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from app.schema.tokens import Job
from deployments.engine.engine import TransformersEngine
from tests.deployments.engine.harness import (
    CONFIG,
    MODELS,
    VOCAB,
    Answers,
    answer_one,
    finish_all,
    greedy,
    make_job,
    make_model,
    take,
)

NEW_TOKENS = 14
LENGTHS = (1, 7, 16, 40, 61)


def make_prompts() -> list[list[int]]:
    source = random.Random(11)
    return [[source.randrange(VOCAB) for _ in range(length)] for length in LENGTHS]


def generate(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """What transformers makes of the prompt, by its own loop, cache and eager attention."""
    ids = torch.tensor([prompt])
    output = cast(Any, model).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
    )
    return cast("list[int]", output[0, len(prompt) :].tolist())


@pytest.mark.parametrize("name", MODELS)
def test_greedy_output_equals_generate(name: str) -> None:
    model = make_model(name)
    model.set_attn_implementation("eager")
    prompts = make_prompts()
    wanted = [generate(model, prompt) for prompt in prompts]
    assert len({token for tokens in wanted for token in tokens}) > 5, "the model says always the same"
    engine = TransformersEngine(model, CONFIG, end_ids=frozenset())

    for key, prompt in enumerate(prompts):
        assert answer_one(engine, make_job(key, prompt, greedy(NEW_TOKENS))).tokens == wanted[key]

    coming_and_going(engine, prompts, wanted)
    assert engine.statistics().kv_tokens_used == 0


def coming_and_going(engine: TransformersEngine, prompts: list[list[int]], wanted: list[list[int]]) -> None:
    """Requests arrive between steps, some leave early, and each of the others gets what it would get
    alone.
    """
    source = random.Random(5)
    answers: Answers = {}
    aborted = set()
    jobs: list[Job] = []
    for key in range(15):
        prompt = prompts[key % len(prompts)]
        jobs.append(make_job(key, prompt, greedy(NEW_TOKENS)))
    for job in jobs:
        engine.add(job)
        for _ in range(source.randrange(4)):
            take(answers, engine.step())
        if source.random() < 0.3:
            leaving = jobs[source.randrange(len(jobs))]
            if leaving in jobs[: jobs.index(job) + 1]:
                engine.abort(leaving.ingress, leaving.key)
                aborted.add(leaving.key)
    finish_all(engine, answers)
    assert len(aborted) < 10
    for job in jobs:
        answer = answers.get((job.key, 0))
        expected = wanted[job.key % len(prompts)]
        if job.key not in aborted:
            assert answer is not None and answer.finish == "length"
            assert answer.tokens == expected
        elif answer is not None:
            assert answer.tokens == expected[: len(answer.tokens)]
