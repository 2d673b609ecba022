"""Handed-over tokens that the engine chooses otherwise: found, counted, logged, and tolerated or not."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job, Steering
from deployments.engine.divergences import DIVERGED
from deployments.engine.engine import TransformersEngine
from deployments.engine.handed_over import MOST_CHECKED, limit_checks
from deployments.engine.scheduler import Chunk
from deployments.engine.sequence import Sequence
from tests.deployments.engine.harness import (
    CONFIG,
    PROMPT,
    VOCAB,
    Answers,
    answer_all,
    answer_one,
    finish_all,
    greedy,
    make_engine,
    make_job,
    preempt,
    take,
)
from tests.deployments.engine.harness import REQUESTS as SOME_REQUESTS

REQUESTS: dict[str, SamplingParams] = {
    name: msgspec.structs.replace(request, max_tokens=24)
    for name, request in {
        **SOME_REQUESTS,
        "flat": SamplingParams(max_tokens=24, seed=6, temperature=9.0, top_p=0.99),
        "min_tokens": msgspec.structs.replace(SOME_REQUESTS["min_tokens"], min_tokens=15),
    }.items()
}


def engine_with(
    prefill_chunk_tokens: int = 16, on_divergence: Literal["continue", "fail"] = "continue", **bounds: int
) -> TransformersEngine:
    config: Any = {"prefill_chunk_tokens": prefill_chunk_tokens, "on_divergence": on_divergence, **bounds}
    return make_engine(msgspec.structs.replace(CONFIG, **config))


def other(token: int) -> int:
    return (token + 1) % VOCAB


def divergences(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    """The arguments of the log lines: choice, key, ingress, position, sent and recomputed token, dtype."""
    return [
        record.args
        for record in caplog.records
        if record.name == "deployments.engine.divergences" and isinstance(record.args, tuple)
    ]


# Found wherever they are, and nowhere else.


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64])
def test_the_engines_own_tokens_do_not_diverge(chunk_tokens: int) -> None:
    engine = engine_with(chunk_tokens)
    for request in REQUESTS.values():
        whole = answer_all(engine, [make_job(0, PROMPT, request, n=3)])
        for cut in (1, 20):
            generated = [whole[0, choice].tokens[: cut + choice] for choice in range(3)]
            rest = answer_all(engine, [make_job(0, PROMPT, request, n=3, generated=generated)])
            for choice in range(3):
                assert generated[choice] + rest[0, choice].tokens == whole[0, choice].tokens
    assert engine.statistics().divergences == 0


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("chunk_tokens", [1, 8, 64])
def test_another_token_is_found_at_its_position(
    caplog: pytest.LogCaptureFixture, chunk_tokens: int, name: str
) -> None:
    engine = engine_with(chunk_tokens)
    tokens = answer_one(engine, make_job(0, PROMPT, REQUESTS[name])).tokens[:12]
    for position in range(len(tokens)):
        sent = [*tokens[:position], other(tokens[position]), *tokens[position + 1 :]]
        before = engine.statistics().divergences
        answer_one(engine, make_job(position, PROMPT, REQUESTS[name], generated=[sent]))
        assert engine.statistics().divergences > before
    assert divergences(caplog) == [
        (0, position, f"i{position % 2}", position, other(token), token, "float32")
        for position, token in enumerate(tokens)
    ]


def test_the_last_token_alone_is_one_divergence() -> None:
    engine = engine_with()
    tokens = answer_one(engine, make_job(0, PROMPT, greedy())).tokens
    answer_one(engine, make_job(0, PROMPT, greedy(), generated=[[*tokens[:7], other(tokens[7])]]))
    assert engine.statistics().divergences == 1


def test_each_choice_is_checked_from_its_first_token(caplog: pytest.LogCaptureFixture) -> None:
    """Also one that copies the prompt of another, with its keys and values."""
    engine = engine_with()
    sampling = SamplingParams(max_tokens=9, seed=4, temperature=1.5)
    whole = answer_all(engine, [make_job(0, PROMPT * 5, sampling, n=3)])
    firsts = [whole[0, choice].tokens[0] for choice in range(3)]
    generated = [[other(token)] for token in firsts]
    answer_all(engine, [make_job(0, PROMPT * 5, sampling, n=3, generated=generated)])
    assert sorted(divergences(caplog)) == [
        (choice, 0, "i0", 0, other(token), token, "float32") for choice, token in enumerate(firsts)
    ]
    assert engine.statistics().divergences == 3


def test_a_choice_is_logged_once_and_each_token_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_with(3)
    answer_one(engine, make_job(0, PROMPT, greedy(60), generated=[[1, 2] * 20]))
    assert engine.statistics().divergences > 5
    assert len(divergences(caplog)) == 1


def test_more_tokens_than_a_step_checks_are_all_checked(caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_with(512)
    engine._prefill_budget.tokens = 512
    tokens = answer_one(engine, make_job(0, PROMPT, greedy(240))).tokens
    sent = [*tokens[:210], other(tokens[210])]
    engine._prefill_budget.tokens = 512
    rest = answer_one(engine, make_job(0, PROMPT, greedy(240), generated=[tokens[:210]]))
    assert rest.tokens == tokens[210:]
    assert engine.statistics().divergences == 0
    engine._prefill_budget.tokens = 512
    answer_one(engine, make_job(0, PROMPT, greedy(240), generated=[sent]))
    assert [arguments[3] for arguments in divergences(caplog)] == [210]
    assert engine.statistics().divergences == 1


# What the user put in is no divergence.


def test_steered_tokens_are_not_checked_and_those_after_them_are() -> None:
    engine = engine_with(5)
    answers: Answers = {}
    job = make_job(0, PROMPT, REQUESTS["penalties"])
    engine.add(job)
    while len(answers[0, 0].tokens if answers else ()) < 5:
        take(answers, engine.step())
    engine.steer("i0", 0, Steering("s", [3, 1, 4, 1, 5]))
    tokens = finish_all(engine, answers)[0, 0].tokens
    assert tokens[5:10] == [3, 1, 4, 1, 5]
    for cut in (10, 11, 20):
        answer_one(engine, msgspec.structs.replace(job, generated=[tokens[:cut]], steered=[10]))
    assert engine.statistics().divergences == 0
    sent = [*tokens[:19], other(tokens[19])]
    answer_one(engine, msgspec.structs.replace(job, generated=[sent], steered=[10]))
    assert engine.statistics().divergences == 1


def test_what_is_put_in_while_tokens_are_checked_is_not_checked() -> None:
    engine = engine_with(4)
    tokens = answer_one(engine, make_job(0, PROMPT, greedy())).tokens
    engine.add(make_job(0, PROMPT, greedy(40), generated=[tokens]))
    engine.step()
    engine.steer("i0", 0, Steering("s", [other(token) for token in tokens]))
    finish_all(engine)
    assert engine.statistics().divergences == 0


# Counted once.


def test_nothing_is_counted_twice_or_missed_when_it_is_computed_again() -> None:
    sent = [(place * place) % VOCAB for place in range(60)]
    job = make_job(0, PROMPT, SamplingParams(max_tokens=70, seed=3, presence_penalty=0.5), generated=[sent])
    undisturbed = engine_with(8)
    wanted = answer_one(undisturbed, job)
    engine = engine_with(8)
    scheduler = engine._scheduler
    engine.add(job)
    (sequence,) = scheduler.waiting
    for computed in (20, 40):
        while sequence.computed < computed:
            engine.step()
        assert 0 < sequence.checked < 60
        preempt(scheduler, sequence)
    assert finish_all(engine)[0, 0] == wanted
    assert engine.statistics().divergences == undisturbed.statistics().divergences > 50


def test_nothing_diverges_when_sequences_are_preempted_while_they_are_checked() -> None:
    jobs = [
        make_job(
            key,
            [(key * 31 + place * 7) % VOCAB for place in range(60 + key)],
            SamplingParams(max_tokens=90, seed=key, temperature=1.3, frequency_penalty=0.5),
        )
        for key in range(6)
    ]
    whole = answer_all(make_engine(), jobs)
    engine = engine_with(64, kv_cache_tokens=512)
    handed_over = [msgspec.structs.replace(job, generated=[whole[job.key, 0].tokens[:50]]) for job in jobs]
    answers = answer_all(engine, handed_over)
    assert engine.statistics().preemptions > 0
    assert engine.statistics().divergences == 0
    for job in jobs:
        assert answers[job.key, 0].tokens == whole[job.key, 0].tokens[50:]


def test_nothing_is_counted_of_a_step_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its halves are tried, and what they find counts."""
    engine = engine_with(64)
    tokens = answer_one(engine, make_job(0, PROMPT, greedy())).tokens
    forward = engine._runner.forward
    failed: list[int] = []

    def fails_once(chunks: list[Chunk]) -> Any:
        made = forward(chunks)
        if not failed:
            failed.append(len(chunks))
            made[0][:] = float("nan")
            raise RuntimeError("after the logits")
        return made

    monkeypatch.setattr(engine._runner, "forward", fails_once)
    sent = [*tokens[:7], other(tokens[7])]
    answer_all(engine, [make_job(key, PROMPT, greedy(), generated=[sent]) for key in range(2)])
    assert failed == [2]
    assert engine.statistics().divergences == 2


def test_numbers_that_are_not_finite_are_no_divergence() -> None:
    engine = engine_with()
    model: Any = engine._runner._model
    with torch.no_grad():
        model.get_input_embeddings().weight[150] = float("nan")
    answer = answer_one(engine, make_job(0, [*PROMPT, 150], greedy(), generated=[[1, 2, 3]]))
    assert answer.finish == "error"
    assert engine.statistics().divergences == 0


# What becomes of them.


@pytest.mark.parametrize("on_divergence", ["continue", "fail"])
@pytest.mark.parametrize("position", [0, 4, 11])
def test_a_stream_goes_on_with_what_was_sent_or_ends_alone(
    on_divergence: Literal["continue", "fail"], position: int
) -> None:
    engine = engine_with(3, on_divergence)
    jobs = [make_job(key, PROMPT * key, greedy(20)) for key in (1, 2, 3)]
    whole = answer_all(engine, jobs)
    sent = whole[2, 0].tokens[:12]
    sent[position] = other(sent[position])
    handed_over = [
        make_job(1, PROMPT, greedy(20), generated=[whole[1, 0].tokens[:12]]),
        make_job(2, PROMPT * 2, greedy(20), generated=[sent]),
        make_job(3, PROMPT * 3, greedy(20)),
    ]
    answers = answer_all(engine, handed_over)
    assert answers[1, 0].tokens == whole[1, 0].tokens[12:]
    assert answers[3, 0] == whole[3, 0]
    if on_divergence == "fail":
        assert (answers[2, 0].start, answers[2, 0].tokens) == (12, [])
        assert (answers[2, 0].finish, answers[2, 0].error) == ("error", DIVERGED)
    else:
        after = answer_one(engine, make_job(4, PROMPT * 2 + sent, greedy(8)))
        assert answers[2, 0].tokens == after.tokens
        assert answers[2, 0].finish == "length"
    assert engine.statistics().divergences > 0
    assert engine.statistics().kv_tokens_used == 0
    assert not engine.has_work


# What one step checks.


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 300), st.integers(0, 300)), max_size=5),
    st.data(),
)
def test_a_step_checks_so_many_tokens_and_each_is_checked_in_the_end(
    sizes: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    sequences = [
        Sequence(
            Job(ingress="", key=0, prompt=[1] * prompt, sampling=greedy(), generated=[[1] * sent]), 0, 1000, 0
        )
        for prompt, sent, _ in sizes
    ]
    seen: list[list[int]] = [[] for _ in sequences]
    for sequence, (_, _, steered) in zip(sequences, sizes, strict=True):
        sequence.checked = min(steered, sequence.handed_over)
    wanted = [list(range(sequence.checked, sequence.handed_over)) for sequence in sequences]
    while left := [sequence for sequence in sequences if sequence.remaining]:
        counts = [data.draw(st.integers(1, sequence.remaining)) for sequence in left]
        chunks = [
            Chunk(sequence, sequence.computed, count) for sequence, count in zip(left, counts, strict=True)
        ]
        limited = limit_checks(chunks)
        assert limited
        assert sum(len(chunk.unchecked) for chunk in limited) <= MOST_CHECKED
        for chunk in limited:
            assert chunk.count > 0
            seen[sequences.index(chunk.sequence)] += chunk.unchecked
            chunk.sequence.checked = max(chunk.unchecked.stop, chunk.sequence.checked)
            chunk.sequence.computed = chunk.end
    assert seen == wanted
