"""Every choice that the engine knows gets exactly one ending, wherever a step or a command raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job, Steering
from deployments.engine.engine import TransformersEngine
from deployments.engine.protocol import Outputs
from tests.deployments.engine.harness import (
    CONFIG,
    Answers,
    answer_one,
    finish_all,
    greedy,
    make_engine,
    make_job,
    take,
)

PROMPT = [5, 17, 3, 99, 42, 8, 120]
TIGHT = msgspec.structs.replace(CONFIG, kv_cache_tokens=512, prefill_chunk_tokens=64)
WANTED = make_job(77, PROMPT, SamplingParams(max_tokens=9, seed=3, temperature=1.3))

OPERATIONS: dict[str, Callable[[TransformersEngine], tuple[Any, str]]] = {
    "schedule": lambda engine: (engine._scheduler, "schedule"),
    "forward": lambda engine: (engine._runner, "forward"),
    "sample": lambda engine: (engine._sampler, "sample"),
    "hand over": lambda engine: (engine, "_hand_over"),
    "remove": lambda engine: (engine._scheduler, "remove"),
    "release": lambda engine: (engine._scheduler, "release"),
    "allocate": lambda engine: (engine._runner.kv_cache, "allocate"),
    "grow": lambda engine: (engine._runner.kv_cache, "grow"),
    "free": lambda engine: (engine._runner.kv_cache, "free"),
    "copy": lambda engine: (engine._runner.kv_cache, "copy"),
}


class DeviceError(Exception):
    pass


class Fault:
    """Lets an operation raise at its call number `call`, before or after it has done its work, and at all later ones."""

    def __init__(self, engine: TransformersEngine, operation: str, call: int, after: bool) -> None:
        owner, name = OPERATIONS[operation](engine)
        self.happened = False
        self._calls = 0
        original = getattr(owner, name)

        def broken(*args: Any, **kwargs: Any) -> Any:
            self._calls += 1
            if self._calls < call:
                return original(*args, **kwargs)
            self.happened = True
            if after:
                original(*args, **kwargs)
            raise DeviceError(operation)

        setattr(owner, name, broken)
        self.mend: Callable[[], None] = lambda: delattr(owner, name)


def jobs() -> list[Job]:
    """More than the memory holds; two have several choices, and one choice has had its ending."""
    sampling = SamplingParams(max_tokens=20, seed=4, temperature=1.2)
    mixed = [make_job(key, [(key * 31 + i * 7) % 150 for i in range(90 + key)], sampling) for key in range(5)]
    mixed.append(make_job(5, PROMPT, greedy(10), n=3))
    mixed.append(make_job(6, PROMPT, greedy(3), n=2, generated=[[1, 2, 3], [1]]))
    return mixed


def drive(engine: TransformersEngine, steps: int = 400) -> Answers:
    """What an `EngineLoop` does: commands and steps; when one raises, all ends. Checks order, and no second ending."""
    answers: Answers = {}
    for job in jobs():
        engine.add(job)
    for number in range(steps):
        if number > 6 and not engine.has_work:
            return answers
        outputs: Outputs = {}
        try:
            if number == 3:
                engine.steer("i1", 1, Steering("s", [7] * 5))
                engine.steer("i0", 2, Steering("s", [7] * 500))
                engine.steer("i1", 3, Steering("s", [9999]))
            if number in (4, 6):
                (engine.pause if number == 4 else engine.resume)("i0", 0)
            outputs = engine.step()
        except DeviceError:
            outputs = engine.fail_all("It broke.")
        take(answers, outputs)
    raise AssertionError("the engine does not come to an end")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_choice_has_one_ending_wherever_the_engine_breaks(operation: str, after: bool) -> None:
    wanted = answer_one(make_engine(TIGHT), WANTED)
    engine = make_engine(TIGHT)
    for call in (1, 2, 5, 14):
        fault = Fault(engine, operation, call, after)
        answers = drive(engine)
        fault.mend()
        assert {name: answer.finish for name, answer in answers.items() if answer.finish is None} == {}
        assert len(answers) == 5 + 3 + 2
        assert answers[(6, 0)].finish == "length"
        assert engine.statistics().kv_tokens_used == 0
        assert answer_one(engine, WANTED) == wanted, "what comes next is as if nothing had happened"
        if not fault.happened:
            assert call > 1
            break


def test_fail_all_does_not_touch_the_device_and_leaves_nothing_of_it_behind() -> None:
    engine = make_engine()
    for key in range(3):
        engine.add(make_job(key, PROMPT, greedy()))
    engine.step()
    engine.step()
    caches = engine._runner.kv_cache.layers
    for layer in caches:
        layer.keys.fill_(float("nan"))
        layer.values.fill_(float("nan"))
    for operation in ("free", "copy"):
        Fault(engine, operation, 1, after=False)
    answers: Answers = {}
    take(answers, engine.fail_all("gone"))
    assert {answer.error for answer in answers.values()} == {"gone"}
    assert all(bool(layer.keys.isnan().all()) for layer in caches)
    assert engine.statistics().kv_tokens_used == 0
    engine.add(make_job(1, PROMPT, greedy(3)))
    take(answers, {})
    engine.step()
    assert not any(
        bool(torch.isnan(tensor).any()) for layer in caches for tensor in (layer.keys, layer.values)
    )


def test_an_ending_that_waits_is_not_lost_when_scheduling_raises() -> None:
    engine = make_engine()
    engine.add(make_job(2, PROMPT, greedy(3), generated=[[1, 2, 3]]))
    engine.add(make_job(4, PROMPT, greedy(3)))
    fault = Fault(engine, "schedule", 1, after=False)
    with pytest.raises(DeviceError):
        engine.step()
    answers: Answers = {}
    take(answers, engine.fail_all("It broke."))
    assert {key: answer.finish for (key, _), answer in answers.items()} == {2: "length", 4: "error"}
    fault.mend()
    assert finish_all(engine) == {}
