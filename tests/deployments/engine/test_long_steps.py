"""Steps that take long, on a model whose time passes only as its layers are computed."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import msgspec
import pytest

from app.schema.tokens import Job
from deployments.engine.engine import SEARCH_S, TransformersEngine
from deployments.engine.loop import EngineLoop
from deployments.engine.protocol import Outputs
from tests.deployments.engine.harness import (
    CONFIG,
    VOCAB,
    Answers,
    answer_all,
    finish_all,
    greedy,
    make_engine,
    make_job,
    make_model,
    take,
)

POISON = 150
BATCH = msgspec.structs.replace(CONFIG, max_running_sequences=32, kv_cache_tokens=8192)


class SlowEngine:
    """A model that needs `token_s` for a token in each of its two layers, and fails on `poison`; the time is `now`."""

    def __init__(self, token_s: float = 0.0, config: Any = CONFIG, poison: int | None = None) -> None:
        self.now = 0.0
        self.forwards: list[int] = []
        self.on_layer: Any = lambda: None
        model: Any = make_model()
        self.engine = TransformersEngine(model, config, end_ids=frozenset(), clock=lambda: self.now)

        def layer_hook(module: Any, args: Any, output: Any) -> None:
            self.now += token_s * args[0].shape[1]
            self.on_layer()

        def model_hook(module: Any, args: Any, kwargs: Any) -> None:
            ids = kwargs["input_ids"][0]
            self.forwards.append(len(ids))
            if poison is not None and bool((ids == poison).any()):
                raise ValueError("poison")

        for layer in model.model.layers:
            layer.register_forward_hook(layer_hook)
        model.register_forward_pre_hook(model_hook, with_kwargs=True)


def healthy_during(token_s: float, prompt: list[int]) -> list[bool]:
    """What a loop with `step_timeout_s` of 3 says after each layer of a job."""
    slow = SlowEngine(token_s, msgspec.structs.replace(CONFIG, prefill_chunk_ms=1_000_000))
    seen: list[bool] = []

    async def main() -> None:
        ended = asyncio.Event()

        def deliver(outputs: Outputs) -> None:
            if any(batch.finish for batch in outputs["i0"]):
                ended.set()

        loop = EngineLoop(slow.engine, deliver, step_timeout_s=3.0, clock=lambda: slow.now)
        slow.on_layer = lambda: seen.append(loop.healthy)
        loop.start()
        loop.add(make_job(0, prompt, greedy(2)))
        await asyncio.wait_for(ended.wait(), 30)
        loop.stop()

    interval = sys.getswitchinterval()
    try:
        asyncio.run(main())
    finally:
        sys.setswitchinterval(interval)
    return seen


def test_a_step_that_takes_longer_than_the_timeout_is_healthy_if_each_layer_takes_less() -> None:
    assert all(healthy_during(2.0 / 16, [3] * 60))  # chunks of 16 tokens: 2 s for a layer, 4 s for a step


def test_a_layer_that_takes_longer_than_the_timeout_is_not() -> None:
    assert not all(healthy_during(4.0 / 16, [3] * 60))


def test_chunks_are_sized_by_time() -> None:
    """100 tokens/s, as 0.38 billion parameters in float32 on one thread; the configured chunk would take 2.5 s."""
    config = msgspec.structs.replace(CONFIG, prefill_chunk_tokens=250, max_model_len_tokens=512)
    slow = SlowEngine(0.005, config)
    slow.engine.add(make_job(0, [3], greedy(99)))
    slow.engine.step()
    slow.engine.add(make_job(1, [3] * 400, greedy(1)))
    steps_s: list[float] = []
    while slow.engine.statistics().running > 1 or len(steps_s) < 2:
        began_s = slow.now
        slow.engine.step()
        steps_s.append(slow.now - began_s)
    assert steps_s[0] < 0.4
    assert max(steps_s[1:]) < 0.2


# The search for a request that makes steps fail.


def neighbours(count: int = 31) -> list[Job]:
    return [
        make_job(2 + key, [(key * 7 + place) % 140 for place in range(5)], greedy(30)) for key in range(count)
    ]


def test_the_search_takes_few_forward_passes() -> None:
    slow = SlowEngine(config=BATCH, poison=POISON)
    for job in neighbours():
        slow.engine.add(job)
    for _ in range(20):
        slow.engine.step()
    slow.engine.add(make_job(1, [POISON], greedy()))
    slow.forwards.clear()
    (batches,) = [batches for ingress, batches in slow.engine.step().items() if ingress == "i1"]
    assert [batch.finish for batch in batches if batch.key == 1] == ["error"]
    assert len(slow.forwards) <= 1 + 2 * 5


def test_a_search_on_a_slow_model_is_spread_over_steps_while_the_others_go_on() -> None:
    slow = SlowEngine(0.005, config=BATCH, poison=POISON)
    wanted = answer_all(make_engine(BATCH), neighbours())
    jobs = [job for job in neighbours() if POISON not in wanted[(job.key, 0)].tokens]
    assert len(jobs) > 25
    answers: Answers = {}
    for job in jobs:
        slow.engine.add(job)
    slow.engine._prefill_budget.tokens = 16
    while any(not answers.get((job.key, 0)) for job in jobs):
        take(answers, slow.engine.step())
    slow.engine.add(make_job(1, [POISON], greedy()))
    last = {job.key: slow.now for job in jobs}
    waited_s = 0.0
    while (1, 0) not in answers:
        began_s = slow.now
        slow.forwards.clear()
        outputs = slow.engine.step()
        take(answers, outputs)
        assert slow.now - began_s < 0.32 + SEARCH_S + 0.16
        for batches in outputs.values():
            for batch in batches:
                if batch.key in last:
                    waited_s = max(waited_s, slow.now - last[batch.key])
                    last[batch.key] = slow.now
    finish_all(slow.engine, answers)
    assert answers[(1, 0)].finish == "error"
    assert waited_s < 1.0
    for job in jobs:
        assert answers[(job.key, 0)] == wanted[(job.key, 0)]


def test_a_suspect_can_leave_or_be_paused_while_it_is_searched_for() -> None:
    slow = SlowEngine(0.05, config=BATCH, poison=POISON)
    for job in [make_job(1, [POISON], greedy()), *neighbours(7)]:
        slow.engine.add(job)
    slow.engine.step()
    assert slow.engine._suspects
    slow.engine.pause("i0", 2)
    slow.engine.abort("i1", 3)
    slow.engine.abort("i1", 1)
    answers = finish_all(slow.engine)
    slow.engine.resume("i0", 2)
    finish_all(slow.engine, answers)
    assert {key for key, _ in answers} == {2, 4, 5, 6, 7, 8}
    assert {answer.finish for answer in answers.values()} == {"length"}
    assert slow.engine.statistics().failed_steps == 0


def test_a_broken_model_is_noticed_before_every_sequence_was_tried(caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowEngine(config=BATCH)
    jobs = neighbours()
    for job in jobs:
        slow.engine.add(job)
    answers: Answers = {}
    while len(answers) < len(jobs):
        take(answers, slow.engine.step())
    hook = slow.engine._runner._model.register_forward_hook(lambda *_: 1 / 0)
    slow.forwards.clear()
    with caplog.at_level(logging.CRITICAL):
        finish_all(slow.engine, answers)
    hook.remove()
    assert {answer.finish for answer in answers.values()} == {"error"}
    assert len(slow.forwards) < len(jobs)
    assert slow.engine.statistics().failed_steps == 1
    assert answer_all(slow.engine, [make_job(0, [5 % VOCAB], greedy(2))])[(0, 0)].finish == "length"
