"""Every change that a request makes to the logits, against the plainest way to write it down."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job
from deployments.engine.penalties import adjust
from deployments.engine.sequence import Sequence
from deployments.engine.token_counts import TokenCounts

END = frozenset({0, 4})
VOCAB = 30


def make_sequence(prompt: list[int], generated: list[int], **sampling: Any) -> Sequence:
    params = SamplingParams(max_tokens=100, **sampling)
    return Sequence(Job(ingress="", key=0, prompt=prompt, sampling=params, generated=[generated]), 0, 2048, 0)


def reference(
    logits: list[float], prompt: list[int], generated: list[int], sampling: SamplingParams
) -> list[float]:
    new = list(logits)
    for token in set(prompt) | set(generated):
        penalty = sampling.repetition_penalty
        new[token] = new[token] * penalty if new[token] < 0 else new[token] / penalty
    for token in set(generated):
        new[token] -= sampling.presence_penalty + sampling.frequency_penalty * generated.count(token)
    for token, bias in sampling.logit_bias.items():
        new[token] += bias
    if len(generated) < sampling.min_tokens:
        for token in sampling.stop_token_ids if sampling.ignore_eos else (*END, *sampling.stop_token_ids):
            new[token] = -math.inf
    return new


tokens = st.integers(0, VOCAB - 1)
requests = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.sampled_from([0.5, 1.0, 1.3, 2.0]),
        "presence_penalty": st.sampled_from([-2.0, 0.0, 0.7]),
        "frequency_penalty": st.sampled_from([-1.0, 0.0, 0.4]),
        "logit_bias": st.dictionaries(tokens, st.sampled_from([-100.0, -1.0, 2.5])),
        "min_tokens": st.integers(0, 6),
        "stop_token_ids": st.lists(tokens, max_size=3).map(tuple),
        "ignore_eos": st.booleans(),
    },
)
rows = st.tuples(st.lists(tokens, min_size=1, max_size=12), st.lists(tokens, max_size=9), requests)


@given(st.lists(rows, min_size=1, max_size=5), st.integers(0, 1000))
def test_all_rows_are_adjusted_as_their_requests_say(
    cases: list[tuple[list[int], list[int], dict[str, Any]]], seed: int
) -> None:
    logits = torch.randn(len(cases), VOCAB, generator=torch.Generator().manual_seed(seed))
    sequences = [make_sequence(prompt, generated, **sampling) for prompt, generated, sampling in cases]
    wanted = [
        reference(row, prompt, generated, SamplingParams(max_tokens=100, **sampling))
        for row, (prompt, generated, sampling) in zip(logits.tolist(), cases, strict=True)
    ]
    adjust(logits, sequences, END)
    torch.testing.assert_close(logits, torch.tensor(wanted))


@given(st.lists(tokens, min_size=1), st.lists(tokens), st.integers(0, 200))
def test_counts_go_on_from_what_was_handed_over(prompt: list[int], generated: list[int], cut: int) -> None:
    """Also past the size at which the buffers grow."""
    generated = generated * 3
    sampling = {"repetition_penalty": 1.2, "frequency_penalty": 0.3}
    cut = min(cut, len(generated))
    sequence = make_sequence(prompt, generated[:cut], **sampling)
    for token in generated[cut:]:
        sequence.append(token)
    ours, theirs = torch.randn(1, VOCAB).repeat(2, 1).split(1)
    adjust(ours, [sequence], END)
    adjust(theirs, [make_sequence(prompt, generated, **sampling)], END)
    torch.testing.assert_close(ours, theirs)


def test_counts_of_more_tokens_than_the_first_buffer_holds() -> None:
    counts = TokenCounts(range(50), list(range(40, 140)) * 2)
    assert len(counts) == 140
    assert counts.tokens.tolist() == list(range(140))
    assert counts.counts.tolist() == [0.0] * 40 + [2.0] * 100


@pytest.mark.parametrize(("sampling", "needed"), [({}, False), ({"presence_penalty": 0.1}, True)])
def test_requests_without_penalties_keep_no_counts(sampling: dict[str, Any], needed: bool) -> None:
    assert (make_sequence([1], [], **sampling).counts is not None) == needed
