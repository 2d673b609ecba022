from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch

from app.errors import InvalidRequest, Overloaded, PromptTooLong
from app.schema.sampling import SamplingParams
from app.schema.tokens import Job, Steering
from deployments.engine.engine import MAX_FAILED_STEPS, TransformersEngine, model_end_ids
from tests.deployments.engine.harness import (
    CONFIG,
    PROMPT,
    REQUESTS,
    VOCAB,
    Answer,
    Answers,
    answer_all,
    answer_one,
    finish_all,
    greedy,
    make_engine,
    make_job,
    make_model,
    take,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[TransformersEngine]:
    """One engine for the tests that leave it as they found it, which is checked."""
    engine = make_engine()
    yield engine
    assert not engine.has_work
    assert engine.statistics().kv_tokens_used == 0


def noise(count: int, first_key: int = 100, longest: int = 60) -> list[Job]:
    source = random.Random(count)
    return [
        make_job(
            first_key + index,
            [source.randrange(VOCAB) for _ in range(source.randrange(1, longest))],
            SamplingParams(
                max_tokens=source.randrange(1, 40), seed=index, temperature=source.choice([0.0, 0.7, 1.5])
            ),
        )
        for index in range(count)
    ]


# A token depends on its request alone.


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(shared: TransformersEngine, name: str) -> None:
    job = make_job(1, PROMPT * 4, REQUESTS[name])
    alone = answer_one(shared, job)
    assert len(set(alone.tokens)) > 2
    answers: Answers = {}
    for other in noise(9):
        shared.add(other)
        take(answers, shared.step())
    shared.add(job)
    finish_all(shared, answers)
    assert_same(answers[(1, 0)], alone)


def test_answers_stay_the_same_when_sequences_are_preempted() -> None:
    """Memory for four short sequences, and ten that outgrow them."""
    tight = msgspec.structs.replace(CONFIG, kv_cache_tokens=512, prefill_chunk_tokens=64)
    requests = [
        greedy(50),
        SamplingParams(max_tokens=50, seed=3, temperature=1.3),
        SamplingParams(max_tokens=50, seed=4, frequency_penalty=0.5),
    ]
    jobs = [
        make_job(key, [(key * 31 + i * 7) % VOCAB for i in range(100 + key)], request)
        for key, request in enumerate(requests * 3)
    ]
    wanted = answer_all(make_engine(), jobs)
    engine = make_engine(tight)
    assert answer_all(engine, jobs) == wanted
    statistics = engine.statistics()
    assert statistics.preemptions > 3
    assert statistics.kv_tokens_used == 0


@pytest.mark.parametrize("name", REQUESTS)
def test_a_job_goes_on_from_wherever_it_was_cut(shared: TransformersEngine, name: str) -> None:
    whole = answer_one(shared, make_job(0, PROMPT, REQUESTS[name]))
    jobs = [
        make_job(cut, PROMPT, REQUESTS[name], generated=[whole.tokens[:cut]])
        for cut in range(len(whole.tokens) + 1)
    ]
    answers = answer_all(shared, jobs)
    for cut in range(len(jobs)):
        rest = answers[(cut, 0)]
        assert rest.start == cut
        logprobs = whole.logprobs[cut:]
        assert_same(rest, Answer(cut, whole.tokens[cut:], logprobs, whole.finish, whole.stop_token))


def test_a_pause_changes_nothing_but_the_time(shared: TransformersEngine) -> None:
    job = make_job(1, PROMPT, REQUESTS["penalties"])
    wanted = answer_one(shared, job)
    answers: Answers = {}
    shared.add(job)
    for other in noise(3):
        shared.add(other)
    for length in (2, 5, 9):
        while len(answers.get((1, 0), Answer()).tokens) < length:
            take(answers, shared.step())
        shared.pause(job.ingress, 1)
        shared.pause(job.ingress, 1)
        for _ in range(length):
            take(answers, shared.step())
        assert len(answers[(1, 0)].tokens) == length
        assert shared.statistics().paused == 1
        shared.resume(job.ingress, 1)
    finish_all(shared, answers)
    assert_same(answers[(1, 0)], wanted)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("length", [1, 3, 40])
def test_what_is_put_in_is_as_if_it_had_been_generated(
    shared: TransformersEngine, name: str, length: int
) -> None:
    """Longer than a chunk, too, and beside others that run."""
    put_in = [(11 * place + 5) % VOCAB for place in range(length)]
    job = make_job(1, PROMPT, msgspec.structs.replace(REQUESTS[name], max_tokens=60))
    answers: Answers = {}
    shared.add(job)
    for other in noise(3):
        shared.add(other)
    while len(answers.get((1, 0), Answer()).tokens) < 5:
        take(answers, shared.step())
    shared.steer(job.ingress, 1, Steering("s", put_in))
    finish_all(shared, answers)
    whole = answers[(1, 0)]
    begun = 5 + length
    assert whole.tokens[5:begun] == put_in
    rest = answer_one(
        shared,
        msgspec.structs.replace(job, generated=[whole.tokens[:begun]], steered=[begun]),
    )
    logprobs = whole.logprobs[begun:]
    assert_same(rest, Answer(begun, whole.tokens[begun:], logprobs, whole.finish, whole.stop_token))
    if name == "greedy":
        prompt = PROMPT + whole.tokens[:begun]
        direct = answer_one(shared, make_job(1, prompt, greedy(60 - begun, logprobs=2)))
        assert_same(direct, Answer(0, whole.tokens[begun:], logprobs, whole.finish))


def test_what_is_put_in_stays_when_sequences_are_preempted_and_paused() -> None:
    tight = msgspec.structs.replace(CONFIG, kv_cache_tokens=512, prefill_chunk_tokens=64)
    jobs = [
        make_job(
            key,
            [(key * 31 + i * 7) % VOCAB for i in range(90 + key)],
            SamplingParams(max_tokens=90, seed=key, temperature=1.3, frequency_penalty=0.5),
        )
        for key in range(6)
    ]
    engine = make_engine(tight)
    answers: Answers = {}
    for job in jobs:
        engine.add(job)
    for step in range(30):
        take(answers, engine.step())
        job = jobs[step % 6]
        if step % 3 == 0:
            engine.steer(job.ingress, job.key, Steering(f"{step}", [step % VOCAB] * (step % 17)))
        if step % 5 == 0:
            engine.pause(job.ingress, job.key)
    for job in jobs:
        engine.resume(job.ingress, job.key)
    finish_all(engine, answers)
    assert engine.statistics().preemptions > 0
    assert engine.statistics().kv_tokens_used == 0
    roomy = make_engine()
    for job in jobs:
        whole = answers[(job.key, 0)]
        assert len(whole.tokens) == 90
        rest = answer_one(roomy, msgspec.structs.replace(job, generated=[whole.tokens[:75]], steered=[75]))
        assert rest.tokens == whole.tokens[75:]


def assert_same(answer: Answer, wanted: Answer) -> None:
    assert (answer.tokens, answer.finish, answer.stop_token) == (
        wanted.tokens,
        wanted.finish,
        wanted.stop_token,
    )
    assert len(answer.logprobs) == len(wanted.logprobs)
    for ours, theirs in zip(answer.logprobs, wanted.logprobs, strict=True):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
        assert [token for token, _ in ours.top] == [token for token, _ in theirs.top]


# Choices.


def test_the_choices_of_a_seed_differ_and_each_can_be_had_alone(shared: TransformersEngine) -> None:
    sampling = SamplingParams(max_tokens=10, seed=4, temperature=1.5)
    answers = answer_all(shared, [make_job(0, PROMPT * 5, sampling, n=3)])
    assert len({tuple(answers[(0, choice)].tokens) for choice in range(3)}) == 3
    again = answer_all(
        shared,
        [
            make_job(
                0,
                PROMPT * 5,
                sampling,
                n=3,
                generated=[[], answers[(0, 1)].tokens[:4], []],
                finished=[True, False, True],
            )
        ],
    )
    assert set(again) == {(0, 1)}
    assert again[(0, 1)].tokens == answers[(0, 1)].tokens[4:]


def test_a_job_whose_choices_are_all_finished_yields_nothing(shared: TransformersEngine) -> None:
    shared.add(make_job(0, PROMPT, greedy(), n=2, generated=[[1], [2]], finished=[True, True]))
    assert not shared.has_work


# Endings.


def test_the_length_ends_an_answer(shared: TransformersEngine) -> None:
    answer = answer_one(shared, make_job(0, PROMPT, greedy(5)))
    assert (len(answer.tokens), answer.finish, answer.stop_token) == (5, "length", None)


def test_the_context_ends_an_answer(shared: TransformersEngine) -> None:
    answer = answer_one(shared, make_job(0, PROMPT, greedy(9999)))
    assert len(PROMPT) + len(answer.tokens) == CONFIG.max_model_len_tokens
    assert answer.finish == "length"


def test_a_stop_token_ends_an_answer_and_is_part_of_it(shared: TransformersEngine) -> None:
    tokens = answer_one(shared, make_job(0, PROMPT, greedy())).tokens
    stop = tokens[6]
    answer = answer_one(shared, make_job(0, PROMPT, greedy(stop_token_ids=(stop,))))
    assert answer.tokens == tokens[: tokens.index(stop) + 1]
    assert (answer.finish, answer.stop_token) == ("stop", stop)


def test_the_end_token_of_the_model_ends_an_answer_unless_it_is_ignored() -> None:
    tokens = answer_one(make_engine(), make_job(0, PROMPT, greedy())).tokens
    end = tokens[4]
    engine = make_engine(end_ids=frozenset({end}))
    answer = answer_one(engine, make_job(0, PROMPT, greedy()))
    assert answer.tokens == tokens[: tokens.index(end) + 1]
    assert (answer.finish, answer.stop_token) == ("stop", None)
    ignoring = answer_one(engine, make_job(0, PROMPT, greedy(ignore_eos=True)))
    assert (ignoring.tokens, ignoring.finish) == (tokens, "length")
    later = answer_one(engine, make_job(0, PROMPT, greedy(min_tokens=8)))
    assert end not in later.tokens[:8]
    assert len(later.tokens) >= 9


@pytest.mark.parametrize(
    ("generated", "sampling", "finish", "stop_token"),
    [
        ([1, 2, 3], greedy(3), "length", None),
        ([1, 2, 3], greedy(9, stop_token_ids=(3,)), "stop", 3),
        ([1, 2, 50], greedy(9), "stop", None),
        ([1] * 249, greedy(999), "length", None),
    ],
)
def test_a_job_that_had_its_ending_ends_at_once(
    generated: list[int], sampling: SamplingParams, finish: str, stop_token: int | None
) -> None:
    engine = make_engine(end_ids=frozenset({50}))
    engine.add(make_job(0, PROMPT, sampling, generated=[generated]))
    assert engine.has_work
    assert engine.next_step_s() == 0.0
    ((batch,),) = engine.step().values()
    assert (batch.position, batch.token_ids) == (len(generated), [])
    assert (batch.finish, batch.stop_token) == (finish, stop_token)
    assert not engine.has_work


def test_an_aborted_stream_is_silent_and_frees_its_place(shared: TransformersEngine) -> None:
    shared.add(make_job(0, PROMPT, greedy(50), n=2))
    shared.add(make_job(2, PROMPT, greedy(3)))
    shared.add(make_job(4, PROMPT, greedy(3), generated=[[1, 2, 3]]))
    shared.step()
    shared.abort("i0", 0)
    shared.abort("i0", 0)
    shared.abort("i1", 4)
    assert shared.statistics().running == 1
    assert set(finish_all(shared)) == {(2, 0)}


def test_an_ending_that_was_not_put_out_yet_can_be_aborted(shared: TransformersEngine) -> None:
    shared.add(make_job(4, PROMPT, greedy(3), generated=[[1, 2, 3]]))
    shared.abort("i0", 4)
    assert not shared.has_work


# What is refused.


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"prompt": []}, InvalidRequest, "prompt"),
        ({"prompt": [VOCAB]}, InvalidRequest, "prompt"),
        ({"prompt": [1, -1]}, InvalidRequest, "prompt"),
        ({"prompt": [1] * 256}, PromptTooLong, "prompt"),
        ({"generated": [[VOCAB]]}, InvalidRequest, "prompt"),
        ({"generated": [[1] * 250]}, InvalidRequest, "prompt"),
        ({"generated": [[1], [2]]}, InvalidRequest, "n"),
        ({"finished": [True, False]}, InvalidRequest, "n"),
        ({"sampling": greedy(logit_bias={VOCAB: 1.0})}, InvalidRequest, "logit_bias"),
        ({"sampling": greedy(stop_token_ids=(VOCAB,))}, InvalidRequest, "stop_token_ids"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused(
    shared: TransformersEngine, change: dict[str, Any], error: type[Exception], param: str
) -> None:
    with pytest.raises(error) as caught:
        shared.add(msgspec.structs.replace(make_job(0, PROMPT, greedy()), **change))
    assert getattr(caught.value, "param", None) == param
    assert not shared.has_work


def test_a_stream_cannot_be_added_twice(shared: TransformersEngine) -> None:
    shared.add(make_job(0, PROMPT, greedy(2)))
    with pytest.raises(InvalidRequest):
        shared.add(make_job(0, PROMPT, greedy(2)))
    finish_all(shared)


def test_more_sequences_than_places_are_refused_and_paused_ones_count() -> None:
    config = msgspec.structs.replace(CONFIG, max_running_sequences=2, max_waiting_sequences=3)
    engine = make_engine(config)
    engine.add(make_job(0, PROMPT, greedy(5), n=4))
    with pytest.raises(Overloaded) as caught:
        engine.add(make_job(1, PROMPT, greedy(5), n=2))
    assert caught.value.retry_after_s
    engine.step()
    engine.pause("i0", 0)
    engine.add(make_job(2, PROMPT, greedy(5)))
    with pytest.raises(Overloaded):
        engine.add(make_job(3, PROMPT, greedy(5)))
    engine.resume("i0", 0)
    answers = finish_all(engine)
    assert {answer.finish for answer in answers.values()} == {"length"}
    assert len(answers) == 5


# Faults.


def poison(engine: TransformersEngine, token: int, spoil: Any) -> None:
    """Lets the model break on forward passes in which `token` is among the ids."""
    model: Any = engine._runner._model

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        places = (kwargs["input_ids"][0] == token).nonzero()[:, 0].tolist()
        if places:
            spoil(output, places, kwargs)

    model.register_forward_hook(hook, with_kwargs=True)


def raise_error(*_: Any) -> None:
    raise ValueError("poison")


def test_a_request_that_breaks_the_model_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    wanted = answer_all(make_engine(), noise(5))
    engine = make_engine()
    poison(engine, 150, raise_error)
    jobs = [*noise(5), make_job(1, [*PROMPT, 150], greedy())]
    jobs = [job for job in jobs if 150 not in job.prompt or job.key == 1]
    answers = answer_all(engine, [jobs[-1], *jobs[:-1]])
    assert answers[(1, 0)].finish == "error"
    assert "poison" not in str(answers[(1, 0)].error)
    for job in jobs[:-1]:
        answer = answers[(job.key, 0)]
        if answer.finish != "error":
            assert answer == wanted[(job.key, 0)]
        else:
            assert 150 in wanted[(job.key, 0)].tokens
    assert engine.healthy
    assert engine.statistics().kv_tokens_used == 0
    assert "poison" in caplog.text


def test_a_request_whose_numbers_are_not_finite_fails_alone_and_leaves_nothing_behind() -> None:
    """Its keys and values are not finite either, in the very memory that the next requests get."""
    wanted = answer_all(make_engine(), noise(6))
    engine = make_engine()
    model: Any = engine._runner._model
    with torch.no_grad():
        model.get_input_embeddings().weight[150] = float("nan")
    jobs = [job for job in noise(6) if 150 not in job.prompt]
    for _ in range(3):
        answers = answer_all(engine, [make_job(1, [*PROMPT, 150] * 9, greedy()), *jobs])
        assert answers[(1, 0)].finish == "error"
        assert answers[(1, 0)].tokens == []
        for job in jobs:
            if 150 not in wanted[(job.key, 0)].tokens:
                assert answers[(job.key, 0)] == wanted[(job.key, 0)]
    assert engine.healthy


def test_poison_alone_does_not_make_the_engine_unhealthy() -> None:
    engine = make_engine()
    poison(engine, 150, raise_error)
    for key in range(2 * MAX_FAILED_STEPS):
        assert answer_one(engine, make_job(key, [150], greedy())).finish == "error"
    assert engine.healthy
    assert engine.statistics().failed_steps == 2 * MAX_FAILED_STEPS


def test_a_broken_model_makes_the_engine_unhealthy_until_it_works_again() -> None:
    engine = make_engine()
    model: Any = engine._runner._model
    hook = model.register_forward_hook(raise_error)
    healthy = []
    for key in range(MAX_FAILED_STEPS):
        healthy.append(engine.healthy)
        answers = answer_all(engine, [make_job(key, PROMPT, greedy()), make_job(key + 50, PROMPT, greedy())])
        assert [answer.finish for answer in answers.values()] == ["error", "error"]
    healthy.append(engine.healthy)
    assert healthy == [True] * MAX_FAILED_STEPS + [False]
    hook.remove()
    assert answer_one(engine, make_job(9, PROMPT, greedy())).finish == "length"
    assert engine.healthy
    assert engine.statistics().kv_tokens_used == 0


def test_fail_all_ends_every_stream_in_every_state() -> None:
    engine = make_engine()
    for key in range(3):
        engine.add(make_job(key, PROMPT, greedy(), n=2))
        engine.step()
    engine.pause("i1", 1)
    engine.add(make_job(7, PROMPT, greedy(2), generated=[[1, 2]]))
    answers: Answers = {}
    take(answers, engine.fail_all("gone"))
    assert len(answers) == 7
    assert [answer.error for answer in answers.values()].count("gone") == 6
    assert not engine.has_work
    assert engine.statistics().kv_tokens_used == 0


@pytest.mark.parametrize(
    ("generation", "own", "wanted"), [(3, 4, {3}), ([3, 5], 4, {3, 5}), (None, 4, {4}), (None, None, set())]
)
def test_end_ids_come_from_the_generation_configuration_first(
    generation: Any, own: Any, wanted: set[int]
) -> None:
    model = make_model()
    model.generation_config.eos_token_id = generation
    model.config.eos_token_id = own
    assert model_end_ids(model) == wanted
