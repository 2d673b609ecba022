from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job
from deployments.engine.filters import CANDIDATES
from deployments.engine.sampler import Sampler
from deployments.engine.sequence import Sequence
from tests.deployments.engine.chi_square import check_frequencies

NO_END: frozenset[int] = frozenset()


def make_row(position: int = 0, choice: int = 0, **sampling: Any) -> Sequence:
    params = SamplingParams(max_tokens=99999, **sampling)
    generated: list[list[int]] = [[0] * position for _ in range(choice + 1)]
    job = Job(ingress="", key=0, prompt=[0], sampling=params, n=choice + 1, generated=generated)
    return Sequence(job, choice, 2048, 0)


def sample(logits: torch.Tensor, *rows: Sequence) -> list[int | None]:
    return [sample.token for sample in Sampler(NO_END).sample(logits.clone(), rows)]


def counts_of(logits: torch.Tensor, draws: int, **sampling: Any) -> torch.Tensor:
    """How often each token comes, over as many seeds as there are draws."""
    seen = torch.zeros(len(logits))
    for start in range(0, draws, 1000):
        rows = [make_row(seed=seed, **sampling) for seed in range(start, start + 1000)]
        tokens = sample(logits.expand(1000, -1), *rows)
        seen += torch.bincount(torch.tensor(tokens), minlength=len(logits))
    return seen


def expected(logits: torch.Tensor, **sampling: Any) -> torch.Tensor:
    """The exact distribution, by the filters of transformers in their order."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.get("temperature", 1.0))])
    if sampling.get("top_k"):
        warpers.append(TopKLogitsWarper(min(sampling["top_k"], len(logits))))
    if sampling.get("top_p", 1.0) < 1.0:
        warpers.append(TopPLogitsWarper(sampling["top_p"]))
    if sampling.get("min_p"):
        warpers.append(MinPLogitsWarper(sampling["min_p"]))
    scores: torch.Tensor = cast(Any, warpers)(torch.zeros(1, 1, dtype=torch.long), logits[None].clone())
    return scores.softmax(-1)[0]


def test_greedy_takes_the_likeliest_and_the_first_of_equals() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0], [2.0, 0.0, 0.0, 0.0]])
    assert sample(logits, make_row(temperature=0.0), make_row(temperature=0.0)) == [1, 0]


FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"top_k": 8, "top_p": 0.8, "min_p": 0.05, "temperature": 1.3},
    {"top_k": 1000},
    {"top_k": 200, "top_p": 0.9},
    {"top_p": 0.99, "temperature": 3.0},
    {"min_p": 0.001, "temperature": 2.5},
]


@pytest.mark.parametrize("vocabulary", [40, 700])
@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_tokens_come_as_often_as_they_should(sampling: dict[str, Any], vocabulary: int) -> None:
    """By the candidates of a filter, by the whole vocabulary where those don't suffice, and without a filter."""
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(3)) * 1.5
    check_frequencies(counts_of(logits, 12000, **sampling), expected(logits, **sampling))


@pytest.mark.parametrize("sampling", [{}, {"top_p": 0.9}, {"top_k": 20}], ids=str)
def test_penalties_and_bias_change_how_often_tokens_come(sampling: dict[str, Any]) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(4)) * 1.5
    changes: dict[str, Any] = {
        "repetition_penalty": 1.3,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.2,
        "logit_bias": {7: 2.0, 9: -3.0},
        "min_tokens": 9,
        "stop_token_ids": (11,),
    }
    changed = logits.clone()
    changed[0] = changed[0] * 1.3 if changed[0] < 0 else changed[0] / 1.3
    changed[0] -= 0.4 + 0.2 * 3
    changed[7] += 2.0
    changed[9] -= 3.0
    changed[11] = float("-inf")
    counts = counts_of(logits, 12000, position=3, **changes, **sampling)
    check_frequencies(counts, expected(changed, **sampling))


@given(
    vocabulary=st.sampled_from([7, 300, 2000]),
    spread=st.sampled_from([0.01, 1.0, 4.0]),
    top_k=st.sampled_from([0, 1, 3, 256, 257, 1999, 5000]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    temperature=st.sampled_from([0.2, 1.0, 1.7]),
    seed=st.integers(0, 1 << 30),
)
def test_only_tokens_that_the_filters_leave_are_drawn(
    vocabulary: int, spread: float, top_k: int, top_p: float, min_p: float, temperature: float, seed: int
) -> None:
    """Also where the filters reach beyond the candidates and the whole vocabulary has to be sorted."""
    sampling: dict[str, Any] = {"top_k": top_k, "top_p": top_p, "min_p": min_p, "temperature": temperature}
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * spread
    exact = expected(logits, **sampling)
    rows = [make_row(position, seed=seed, **sampling) for position in range(20)]
    tokens = sample(logits.expand(20, -1), *rows)
    drawn = [float(exact[token]) for token in tokens if token is not None]
    assert len(drawn) == 20
    nearly_in = 1e-4 if top_p < 1 else 0.0
    assert min(drawn) > 0 or nearly_in > 0
    assert sum(1 for probability in drawn if probability == 0) <= 1


def test_the_whole_vocabulary_is_within_reach_of_wide_filters() -> None:
    """Flat logits: the candidates hold a part of the mass only."""
    logits = torch.zeros(4 * CANDIDATES)
    rows = [make_row(seed=seed, top_p=0.99) for seed in range(400)]
    tokens = [token for token in sample(logits.expand(400, -1), *rows) if token is not None]
    assert max(tokens) > 3 * CANDIDATES
    assert max(tokens) <= 0.99 * 4 * CANDIDATES + 1


def test_equal_logits_are_ordered_by_token_id() -> None:
    logits = torch.zeros(600)
    tokens = sample(logits.expand(50, -1), *[make_row(seed=seed, top_p=0.02) for seed in range(50)])
    assert {token for token in tokens if token is not None} <= set(range(13))


def test_top_k_keeps_what_equals_the_last_one_kept() -> None:
    logits = torch.tensor([5.0, 4.0, 4.0, 4.0, 0.0])
    tokens = sample(logits.expand(200, -1), *[make_row(seed=seed, top_k=2) for seed in range(200)])
    assert set(tokens) == {0, 1, 2, 3}


@given(st.lists(st.sampled_from(FILTERS), min_size=1, max_size=12), st.integers(0, 1 << 30))
def test_a_token_does_not_depend_on_its_neighbours(filters: list[dict[str, Any]], seed: int) -> None:
    logits = torch.randn(len(filters), 400, generator=torch.Generator().manual_seed(seed)) * 2
    rows = [make_row(seed=seed, choice=index % 3, **sampling) for index, sampling in enumerate(filters)]
    together = sample(logits, *rows)
    assert together == [sample(logits[index : index + 1], row)[0] for index, row in enumerate(rows)]
    turned = sample(logits.flip(0), *reversed(rows))
    assert together == turned[::-1]


@given(st.integers(1, 12), st.sampled_from([50, 400, 1001]), st.integers(0, 1 << 30))
def test_what_a_row_reports_does_not_depend_on_its_neighbours(count: int, vocabulary: int, seed: int) -> None:
    """To the bit. Coarse logits, as of half precision, have many that are equal."""
    logits = (torch.randn(count, vocabulary, generator=torch.Generator().manual_seed(seed)) * 4).round() / 2
    rows = [make_row(seed=seed, logprobs=index * 7 % 21, temperature=index % 2) for index in range(count)]
    together = Sampler(NO_END).sample(logits.clone(), rows)
    for index, row in enumerate(rows):
        [alone] = Sampler(NO_END).sample(logits[index : index + 1].clone(), [row])
        assert together[index] == alone


def test_seed_choice_and_position_each_change_the_token() -> None:
    logits = torch.zeros(4096)
    rows = [make_row(), make_row(seed=1), make_row(choice=1), make_row(position=1)]
    assert len(set(sample(logits.expand(4, -1), *rows))) == 4
    assert sample(logits[None], make_row(position=5, seed=9)) == sample(
        logits[None], make_row(position=5, seed=9)
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {}, {"top_p": 0.5}, {"logprobs": 3}], ids=str)
def test_a_row_that_is_not_finite_fails_alone(bad: float, sampling: dict[str, Any]) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    alone = sample(logits, *[make_row(seed=1, **sampling)] * 3)
    logits[1, 17] = bad
    tokens = sample(logits, *[make_row(seed=1, **sampling)] * 3)
    assert tokens == [alone[0], None, alone[2]]


def test_a_row_without_any_token_left_fails() -> None:
    assert sample(torch.full((1, 9), float("-inf")), make_row()) == [None]


def test_tokens_without_probability_are_never_drawn() -> None:
    logits = torch.full((300, 100), float("-inf"))
    logits[:, [3, 50]] = 0.0
    for sampling in ({}, {"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.01}):
        rows = [make_row(seed=seed, **sampling) for seed in range(300)]
        assert set(sample(logits, *rows)) == {3, 50}


def test_half_precision_is_sampled_in_single() -> None:
    logits = torch.randn(4, 60, generator=torch.Generator().manual_seed(0)).bfloat16()
    rows = [make_row(seed=seed, top_p=0.9) for seed in range(4)]
    assert sample(logits, *rows) == sample(logits.float(), *rows)
