"""Answers within a grammar, from the engine with the embedded model: they end by themselves, fit, and survive every hand-over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch

from app.errors import InvalidRequest
from app.schema.constraint import Constraint
from app.schema.sampling import SamplingParams
from app.schema.tokens import Job, Steering
from deployments.engine.config import EngineConfig
from deployments.engine.engine import TransformersEngine
from deployments.engine.loading import load_engine
from deployments.model import MODEL_DIR
from deployments.model.files import load_tokenizer, read_end_ids
from tests.deployments.engine.harness import (
    Answer,
    answer_all,
    answer_one,
    finish_all,
    make_engine,
    make_job,
    preempt,
    take,
)

TOKENIZER = load_tokenizer(str(MODEL_DIR))
END_IDS = read_end_ids(str(MODEL_DIR))
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b", None]}, "maxItems": 4},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PERSON = Constraint(kind="json_schema", text=json.dumps(SCHEMA))
DATE = Constraint(kind="regex", text="[0-9]{4}-[0-9]{2}-[0-9]{2}")
ANSWER = Constraint(kind="lark", text='start: "yes" | "no" " thanks"{1,3}')
PROMPT: list[int] = TOKENIZER.encode("Once upon a time").ids


def ids(text: str) -> list[int]:
    encoded: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return encoded


SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "seeded": {"seed": 3, "temperature": 1.3, "logprobs": 2},
    "filtered": {"seed": 4, "top_k": 20, "top_p": 0.9},
    "penalties": {"seed": 5, "min_p": 0.02, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    "biased": {"seed": 6, "logit_bias": {7: -100.0, 2: 40.0}},
}


def fresh() -> TransformersEngine:
    torch.set_num_threads(1)
    config = EngineConfig(max_model_len_tokens=512, max_running_sequences=16, kv_cache_tokens=16384)
    serialised = TOKENIZER.to_str()
    return load_engine(str(MODEL_DIR), config, device="cpu", end_ids=END_IDS, tokenizer_json=serialised)


@pytest.fixture(scope="module")
def shared() -> Iterator[TransformersEngine]:
    """One engine for the tests that leave it as they found it, which is checked."""
    engine = fresh()
    yield engine
    assert not engine.has_work
    statistics = engine.statistics()
    assert (statistics.kv_tokens_used, statistics.failed_steps) == (0, 0)


def job(constraint: Constraint | None, key: int = 1, max_tokens: int = 100, **changes: Any) -> Job:
    fields = {name: changes.pop(name) for name in ("n", "generated", "steered") if name in changes}
    sampling = SamplingParams(max_tokens=max_tokens, constraint=constraint, **changes)
    return make_job(key, PROMPT, sampling, **fields)


def text(answer: Answer) -> str:
    decoded: str = TOKENIZER.decode(answer.tokens)
    return decoded


@pytest.mark.parametrize("name", SAMPLINGS)
def test_an_answer_fits_its_schema_and_ends_by_itself(shared: TransformersEngine, name: str) -> None:
    answer = answer_one(shared, job(PERSON, **SAMPLINGS[name]))
    assert (answer.finish, answer.stop_token, answer.error) == ("stop", None, None)
    assert answer.tokens[-1] in END_IDS
    person = json.loads(text(answer))
    assert list(person) == ["name", "age", "tags"] and len(person["name"]) <= 12


def test_other_kinds_of_grammars(shared: TransformersEngine) -> None:
    jobs = [job(DATE, 0, seed=1), job(ANSWER, 1, seed=2), job(ANSWER, 2, n=3, seed=3)]
    answers = answer_all(shared, jobs)
    assert all(answer.finish == "stop" for answer in answers.values())
    year, month, day = text(answers[0, 0]).split("-")
    assert (len(year), len(month), len(day)) == (4, 2, 2) and (year + month + day).isdigit()
    for place in ((1, 0), (2, 0), (2, 1), (2, 2)):
        assert text(answers[place]) in {"yes", "no thanks", "no thanks thanks", "no thanks thanks thanks"}


def test_an_answer_that_is_cut_says_length(shared: TransformersEngine) -> None:
    answer = answer_one(shared, job(PERSON, max_tokens=5, seed=1))
    assert answer.finish == "length" and len(answer.tokens) == 5


def test_a_stop_token_of_the_request_ends_it_too(shared: TransformersEngine) -> None:
    (dash,) = ids("-")
    answer = answer_one(shared, job(DATE, seed=1, stop_token_ids=(dash,)))
    assert (answer.finish, answer.stop_token, len(text(answer))) == ("stop", dash, 5)


# Exact.


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_hand_over_at_every_token_changes_nothing(shared: TransformersEngine, name: str) -> None:
    whole = answer_one(shared, job(PERSON, 0, **SAMPLINGS[name])).tokens
    other = fresh()
    jobs = [job(PERSON, cut, generated=[whole[:cut]], **SAMPLINGS[name]) for cut in range(0, len(whole), 2)]
    for begin in range(0, len(jobs), 16):
        for (cut, _), answer in answer_all(other, jobs[begin : begin + 16]).items():
            assert whole[:cut] + answer.tokens == whole
    assert other.statistics().divergences == 0


def test_company_changes_nothing(shared: TransformersEngine) -> None:
    alone = {name: answer_one(shared, job(PERSON, 1, **fields)) for name, fields in SAMPLINGS.items()}
    free = [job(None, 20 + key, 60, seed=key) for key in range(4)]
    lone = [answer_one(shared, each) for each in free]
    jobs = [job(PERSON, key, **fields) for key, fields in enumerate(SAMPLINGS.values())]
    together = answer_all(shared, [*free, *jobs, job(DATE, 30, seed=9)])
    for key, answer in enumerate(alone.values()):
        assert together[key, 0] == answer
    assert [together[each.key, 0] for each in free] == lone


def test_a_preemption_and_a_pause_change_nothing(shared: TransformersEngine) -> None:
    wanted = answer_one(shared, job(PERSON, seed=8))
    shared.add(job(PERSON, seed=8))
    answers: dict[tuple[int, int], Answer] = {}
    for _ in range(9):
        take(answers, shared.step())
    preempt(shared._scheduler, shared._scheduler.running[0])
    for _ in range(5):
        take(answers, shared.step())
    shared.pause("i1", 1)
    shared.resume("i1", 1)
    assert finish_all(shared, answers)[1, 0] == wanted


def test_a_failed_step_changes_nothing(shared: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job(PERSON, key, seed=key) for key in range(3)]
    wanted = answer_all(shared, jobs)
    forward, calls = shared._runner.forward, iter(range(1000))

    def fails_at_times(chunks: Any) -> Any:
        result = forward(chunks)
        if len(chunks) > 1 and next(calls) % 3 == 2:
            raise RuntimeError("no luck")
        return result

    monkeypatch.setattr(shared._runner, "forward", fails_at_times)
    assert answer_all(shared, jobs) == wanted


# Changed by the client.


def steered(engine: TransformersEngine, insertion: str, after: int, **fields: Any) -> Answer:
    engine.add(job(PERSON, **fields))
    answers: dict[tuple[int, int], Answer] = {}
    while not answers or len(answers[1, 0].tokens) < after:
        take(answers, engine.step())
    engine.steer("i1", 1, Steering("a", ids(insertion)))
    return finish_all(engine, answers)[1, 0]


def test_steered_text_that_fits_goes_on_within_the_grammar(shared: TransformersEngine) -> None:
    inserted = '"name":"Bo","age":5,'
    answer = steered(shared, inserted, 1, temperature=0.0, logit_bias={ids("{")[0]: 50.0})
    assert answer.finish == "stop"
    assert json.loads(text(answer)) | {"tags": 0} == {"name": "Bo", "age": 5, "tags": 0}


def test_steered_text_that_does_not_fit_ends_the_constraint(shared: TransformersEngine) -> None:
    answer = steered(shared, " The end.", 3, max_tokens=40, seed=1)
    assert " The end." in text(answer) and answer.error is None
    count = len(ids(" The end."))
    for cut in range(3 + count, len(answer.tokens)):
        again = job(PERSON, max_tokens=40, seed=1, generated=[answer.tokens[:cut]], steered=[3 + count])
        assert answer.tokens[:cut] + answer_one(shared, again).tokens == answer.tokens


# Faults.


def test_tokens_that_do_not_fit_end_their_own_choice(shared: TransformersEngine) -> None:
    wrong = ids("{{{")
    good = answer_one(shared, job(PERSON, 1, seed=1))
    answers = answer_all(shared, [job(PERSON, 0, seed=1, generated=[wrong]), job(PERSON, 1, seed=1)])
    assert answers[0, 0].finish == "error" and "grammar" in (answers[0, 0].error or "")
    assert answers[1, 0] == good


def test_a_constraint_that_cannot_be_kept_is_refused(shared: TransformersEngine) -> None:
    impossible = job(Constraint(kind="regex", text="(", param="structured_outputs"))
    for call in (shared.prepare, shared.add):
        with pytest.raises(InvalidRequest) as refusal:
            call(impossible)
        assert refusal.value.param == "structured_outputs"
    assert not shared.has_work


def test_an_engine_without_a_tokenizer_has_no_structured_output() -> None:
    engine = make_engine()
    wanted = msgspec.structs.replace(SamplingParams(max_tokens=1), constraint=DATE)
    with pytest.raises(InvalidRequest, match="no structured output"):
        engine.add(make_job(0, [1, 2], wanted))
    assert not engine.has_work
