from __future__ import annotations

import pytest
import torch

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job
from deployments.engine.sampler import Sampler
from deployments.engine.sequence import Sequence


def make_row(logprobs: int | None, **sampling: object) -> Sequence:
    params = SamplingParams(max_tokens=9, logprobs=logprobs, **sampling)  # type: ignore[arg-type]
    return Sequence(Job(ingress="", key=0, prompt=[1], sampling=params), 0, 2048, 0)


def test_logprobs_are_those_of_the_raw_logits_whatever_changes_them() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    wanted = logits.log_softmax(-1)
    rows = [
        make_row(3, temperature=0.0),
        make_row(None),
        make_row(5, temperature=0.3, top_p=0.5, repetition_penalty=1.7),
        make_row(0, temperature=0.0, logit_bias={7: 100.0}),
    ]
    samples = Sampler(frozenset()).sample(logits.clone(), rows)
    assert samples[1].logprob is None
    assert samples[3].token == 7
    for index, count in ((0, 3), (2, 5), (3, 0)):
        report, token = samples[index].logprob, samples[index].token
        assert report is not None and token is not None
        assert report.logprob == pytest.approx(float(wanted[index, token]), abs=1e-6)
        values, ids = wanted[index].topk(count)
        assert [token for token, _ in report.top] == ids.tolist()
        assert [value for _, value in report.top] == pytest.approx(values.tolist(), abs=1e-6)


def test_equal_alternatives_are_ordered_by_token_id() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 1.0, 1.0]])
    report = Sampler(frozenset()).sample(logits, [make_row(4, temperature=0.0)])[0].logprob
    assert report is not None
    assert [token for token, _ in report.top] == [2, 1, 3, 4]


def test_more_alternatives_than_tokens_gives_all_tokens() -> None:
    report = Sampler(frozenset()).sample(torch.zeros(1, 3), [make_row(20)])[0].logprob
    assert report is not None
    assert sorted(token for token, _ in report.top) == [0, 1, 2]
