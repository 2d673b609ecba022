"""A request in its model's context."""

from __future__ import annotations

import msgspec
import pytest

from app.context import fit_sampling
from app.schema.requests import GenerationRequest
from app.schema.sampling import SamplingDefaults, SamplingParams
from app.settings import LimitsSettings
from tests.fakes.generator import FakeTokenizer

DEFAULTS = SamplingDefaults(temperature=0.6, top_p=0.95, top_k=20, min_p=0.05, repetition_penalty=1.1)


def fitted(request: GenerationRequest, defaults: SamplingDefaults = DEFAULTS) -> SamplingParams:
    card = msgspec.structs.replace(FakeTokenizer().card, sampling_defaults=defaults)
    return fit_sampling(request, [1], 7, card, LimitsSettings())


def asked(*left_out: str) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=5, temperature=0.0, top_p=0.5)
    return GenerationRequest(model="m", sampling=sampling, left_out=left_out, prompt="a")


def test_the_defaults_of_the_model_stand_for_what_is_left_out() -> None:
    sampling = fitted(asked("top_k", "min_p", "repetition_penalty"))
    assert sampling == SamplingParams(
        max_tokens=5, seed=7, temperature=0.0, top_p=0.5, top_k=20, min_p=0.05, repetition_penalty=1.1
    )


@pytest.mark.parametrize("name", SamplingDefaults.__struct_fields__)
def test_each_default_has_its_parameter(name: str) -> None:
    assert getattr(fitted(asked(name)), name) == getattr(DEFAULTS, name)
    assert getattr(SamplingParams(max_tokens=1), name) == getattr(SamplingDefaults(), name)


def test_a_request_that_leaves_nothing_out_gets_what_it_says() -> None:
    assert fitted(asked()) == msgspec.structs.replace(asked().sampling, seed=7)
