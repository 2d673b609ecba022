"""Numbers that are not finite stay with the request that made them, whichever way it leaves its place in memory."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from deployments.engine.config import EngineConfig
from deployments.engine.engine import TransformersEngine
from tests.deployments.engine.harness import (
    CONFIG,
    SHAPE,
    Answers,
    answer_all,
    finish_all,
    greedy,
    make_job,
    make_model,
)

BAD_TOKEN = 150
SMALL = msgspec.structs.replace(
    CONFIG, max_model_len_tokens=512, kv_cache_tokens=1024, prefill_chunk_tokens=32, max_running_sequences=4
)
POISON = make_job(1, [BAD_TOKEN] + [5] * 199, greedy(4))
NEIGHBOURS = [
    make_job(2, [5, 17, 3], greedy(8)),
    make_job(4, [9] * 90, greedy(8)),
    make_job(6, [7] * 300, greedy(4)),
]


def make_poisoned_engine(
    make: Callable[[], PreTrainedModel] = make_model, config: EngineConfig = SMALL
) -> TransformersEngine:
    model = make()
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Embedding)
    with torch.no_grad():
        embeddings.weight[BAD_TOKEN] = float("nan")  # as an overflow makes it
    return TransformersEngine(model, config, end_ids=frozenset())


def steps(engine: TransformersEngine, count: int) -> None:
    for _ in range(count):
        engine.step()


def abort_in_prefill(engine: TransformersEngine) -> None:
    steps(engine, 2)
    engine.abort("i1", 1)


def abort_when_it_has_grown(engine: TransformersEngine) -> None:
    steps(engine, 5)
    engine.abort("i1", 1)


def abort_while_paused(engine: TransformersEngine) -> None:
    steps(engine, 2)
    engine.pause("i1", 1)
    engine.abort("i1", 1)


def lose_its_place_while_paused(engine: TransformersEngine) -> None:
    steps(engine, 2)
    engine.pause("i1", 1)
    engine._scheduler.release(engine._scheduler.paused[0])
    engine.abort("i1", 1)


def be_preempted(engine: TransformersEngine) -> None:
    steps(engine, 2)
    [sequence] = engine._scheduler.running
    engine._scheduler.running.remove(sequence)
    engine._scheduler.release(sequence)
    engine._scheduler.add(sequence)
    engine.abort("i1", 1)


def be_moved(engine: TransformersEngine) -> None:
    """The one before it in memory ends, so it moves there."""
    steps(engine, 1)
    engine.abort("i1", 9)
    steps(engine, 1)
    engine.abort("i1", 1)


def end_with_an_error(engine: TransformersEngine) -> None:
    assert [answer.finish for answer in finish_all(engine).values()][-1] == "error"


@pytest.mark.parametrize(
    "leave",
    [
        abort_in_prefill,
        abort_when_it_has_grown,
        abort_while_paused,
        lose_its_place_while_paused,
        be_preempted,
        be_moved,
        end_with_an_error,
    ],
)
def test_a_place_is_finite_for_whoever_gets_it_next(leave: Callable[[TransformersEngine], None]) -> None:
    alone: Answers = {}
    for job in NEIGHBOURS:
        alone |= answer_all(make_poisoned_engine(), [job])
    engine = make_poisoned_engine()
    if leave is be_moved:
        engine.add(make_job(9, [3, 4], greedy(50)))
    engine.add(POISON)
    steps(engine, 1)
    layers = engine._runner.kv_cache.layers
    assert not all(bool(layer.keys.isfinite().all()) for layer in layers)
    leave(engine)
    assert all(bool(t.isfinite().all()) for layer in layers for t in (layer.keys, layer.values))
    assert answer_all(engine, NEIGHBOURS) == alone


def make_windowed_model() -> PreTrainedModel:
    torch.manual_seed(7)
    return MistralForCausalLM(MistralConfig(**{**SHAPE, "num_hidden_layers": 1}, sliding_window=9))


def test_what_a_sliding_window_hides_from_the_samples_is_not_left_behind() -> None:
    """The bad token is in the block of keys before that of the samples: those are finite."""
    config = msgspec.structs.replace(
        SMALL, max_model_len_tokens=1024, kv_cache_tokens=2048, prefill_chunk_tokens=1024
    )
    engine = make_poisoned_engine(make_windowed_model, config)
    answers = answer_all(engine, [make_job(1, [BAD_TOKEN] + [5] * 699, greedy(3))])
    assert answers[(1, 0)].finish == "length"
    assert all(
        bool(t.isfinite().all())
        for layer in engine._runner.kv_cache.layers
        for t in (layer.keys, layer.values)
    )
