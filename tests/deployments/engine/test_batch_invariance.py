"""The logits of a sequence at a position are the same bits whatever shares its batch and however its tokens came to be computed:
in any company and order of arrival, any chunks, after pauses, preemptions and hand-overs, with several choices.
"""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job
from deployments.engine.config import EngineConfig
from deployments.engine.engine import TransformersEngine
from deployments.engine.handed_over import HandedOverToken
from deployments.engine.model_runner import ModelRunner
from deployments.engine.scheduler import Chunk
from deployments.engine.sequence import Sequence
from tests.deployments.engine.harness import MODELS, VOCAB, Answers, finish_all, make_model, preempt, take

CONFIG = EngineConfig(
    max_model_len_tokens=768,
    max_running_sequences=6,
    max_waiting_sequences=64,
    kv_cache_tokens=3072,
    prefill_chunk_tokens=768,
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Place = tuple[int, int, int]
"""A key, a choice and a position."""


class Recording:
    """Keeps the logits of each place that an engine computes, and compares those that it has kept before."""

    def __init__(self, runner: ModelRunner) -> None:
        self.logits: dict[Place, torch.Tensor] = {}
        self.unequal: list[Place] = []
        self.compared = 0
        self._forward = runner.forward
        runner.forward = self._recorded  # type: ignore[method-assign]

    def _recorded(self, chunks: list[Chunk]) -> tuple[torch.Tensor, list[Sequence], list[HandedOverToken]]:
        logits, sequences, handed_over = self._forward(chunks)
        places = [(sequence.key, sequence.choice, sequence.position) for sequence in sequences]
        places += [(token.sequence.key, token.choice, token.position) for token in handed_over]
        for row, place in zip(logits, places, strict=True):
            kept = self.logits.setdefault(place, row.clone())
            self.compared += kept is not row
            if not torch.equal(kept, row):
                self.unequal.append(place)
        return logits, sequences, handed_over


def engine_and_recording(name: str, dtype: str) -> tuple[TransformersEngine, Recording]:
    model = make_model(name)
    module: torch.nn.Module = model
    module.to(DTYPES[dtype])
    engine = TransformersEngine(model, CONFIG, end_ids=frozenset())
    return engine, Recording(engine._runner)


def job(key: int, length: int, generated: list[list[int]] | None = None) -> Job:
    """Half of the jobs are greedy, some have two choices. The key says everything about a job."""
    prompt = [(key * 31 + 7 * place * place + place) % VOCAB for place in range(length)]
    sampling = SamplingParams(max_tokens=6, temperature=0.0 if key % 2 else 0.9, seed=key)
    n = 1 + key % 3 // 2
    return Job(
        ingress=f"i{key % 2}", key=key, prompt=prompt, sampling=sampling, n=n, generated=generated or []
    )


PREEMPTIONS = 4
LENGTHS = (1, 2, 5, 17, 63, 64, 130, 191, 193, 260, 352, 384, 390, 509, 513, 700)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_place_has_the_same_logits_in_every_company(name: str, dtype: str) -> None:
    check_company(name, dtype)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_so_it_has_with_two_threads(name: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        check_company(name, "float32")
    finally:
        torch.set_num_threads(before)


def check_company(name: str, dtype: str) -> None:
    """Compares the logits of jobs that are alone and of the same jobs in random company. Threads stay as they are."""
    engine, recording = engine_and_recording(name, dtype)
    assert engine.deterministic
    alone: dict[int, Answers] = {}
    for key, length in enumerate(LENGTHS):
        engine.add(job(key, length))
        alone[key] = finish_all(engine)

    @settings(max_examples=3, deadline=None, database=None, derandomize=True)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        source = Random(seed)
        answers: Answers = {}
        keys = source.sample(range(len(LENGTHS)), len(LENGTHS))
        waiting = list(keys)
        paused: set[int] = set()
        preempted = 0
        while waiting or engine.has_work or paused:
            for _ in range(source.randrange(4)):
                if waiting:
                    engine.add(handed_over(source, waiting.pop(), alone))
            for key in list(paused):
                paused.discard(key)
                engine.resume(f"i{key % 2}", key)
            if source.randrange(4) == 0:
                key = source.choice(keys)
                engine.pause(f"i{key % 2}", key)
                paused.add(key)
            if preempted < PREEMPTIONS and engine._scheduler.running and source.randrange(4) == 0:
                preempt(engine._scheduler, engine._scheduler.running[-1])
                preempted += 1
            engine._scheduler.chunk_tokens = source.choice([1, 3, 33, 130, 768])
            take(answers, engine.step())
        assert preempted
        for key in keys:
            for place, answer in alone[key].items():
                tail = answers[place].tokens if place in answers else []
                assert tail == answer.tokens[len(answer.tokens) - len(tail) :]

    check()
    assert recording.unequal == []
    assert recording.compared > 200
    assert engine.statistics().divergences == 0


def handed_over(source: Random, key: int, alone: dict[int, Answers]) -> Job:
    """The job of a key, with some of the tokens that it gets alone."""
    plain = job(key, LENGTHS[key])
    given = source.choice([0, 0, 1, 4])
    if not given:
        return plain
    generated = [alone[key][key, choice].tokens[:given] for choice in range(plain.n)]
    return job(key, LENGTHS[key], generated=generated)
