"""A request in its model's context."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.context import fit_sampling
from app.errors import PromptTooLong
from app.schema.requests import GenerationRequest
from app.schema.sampling import SamplingDefaults, SamplingParams
from app.settings import LimitsSettings, context_tokens
from tests.fakes.generator import FakeTokenizer

DEFAULTS = SamplingDefaults(temperature=0.6, top_p=0.95, top_k=20, min_p=0.05, repetition_penalty=1.1)


def fitted(
    request: GenerationRequest, defaults: SamplingDefaults = DEFAULTS, prompt_tokens: int = 1, **limits: Any
) -> SamplingParams:
    card = msgspec.structs.replace(FakeTokenizer().card, sampling_defaults=defaults)
    return fit_sampling(request, [1] * prompt_tokens, 7, card, LimitsSettings(**limits))


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


@pytest.mark.parametrize(
    ("model", "configured", "memory", "context"),
    [
        (2048, None, 65536, 2048),
        (2048, 1000, 65536, 1000),
        (2048, 4096, 65536, 2048),
        (131072, None, 65536, 65536),
        (None, None, 65536, 65536),
        (None, 4096, 65536, 4096),
    ],
)
def test_the_context_is_that_of_the_model_unless_something_is_less(
    model: int | None, configured: int | None, memory: int, context: int
) -> None:
    assert context_tokens(model, configured, memory) == context


@pytest.mark.parametrize(
    ("max_tokens", "limits", "cut"),
    [
        (0, {}, 60),
        (5, {}, 5),
        (61, {}, 60),
        (2**31 - 1, {}, 60),
        (50, {"max_output_tokens": 40}, 40),
        (0, {"max_output_tokens": 40}, 40),
        (0, {"max_output_tokens": 4000}, 60),
    ],
)
def test_more_tokens_than_are_left_are_cut(max_tokens: int, limits: dict[str, Any], cut: int) -> None:
    """The context of the model has 64."""
    request = GenerationRequest(model="m", sampling=SamplingParams(max_tokens=max_tokens, min_tokens=100))
    sampling = fitted(request, prompt_tokens=4, **limits)
    assert (sampling.max_tokens, sampling.min_tokens) == (cut, cut)


@pytest.mark.parametrize(("tokens", "limits"), [(64, {}), (11, {"max_prompt_tokens": 10})])
def test_a_prompt_that_leaves_no_room_is_too_long(tokens: int, limits: dict[str, Any]) -> None:
    assert fitted(asked(), prompt_tokens=tokens - 1, **limits).max_tokens == min(5, 65 - tokens)
    with pytest.raises(PromptTooLong, match=f"has {tokens} tokens, 1 more than the {tokens - 1}"):
        fitted(asked(), prompt_tokens=tokens, **limits)
