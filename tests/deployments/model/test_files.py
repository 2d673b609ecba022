"""What a model's files say of its end tokens and sampling defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.schema.sampling import SamplingDefaults
from app.settings import ModelSettings
from deployments.model import MODEL_DIR
from deployments.model.files import read_end_ids, read_sampling_defaults
from deployments.tokenizer.prompt_encoder import PromptEncoder

EOS, SYSTEM, USER = 2, 3, 4
NO_TEMPLATE = "{{ raise_exception('no') }}"


def model(
    directory: Path,
    *,
    generation: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    eos_token: str | None = None,
    template: str = NO_TEMPLATE,
) -> str:
    """A directory with the embedded tokenizer and the given files."""
    (directory / "tokenizer.json").write_bytes((MODEL_DIR / "tokenizer.json").read_bytes())
    tokenizer_config = {"tokenizer_class": "TokenizersBackend", "eos_token": eos_token}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"} | (config or {})))
    (directory / "chat_template.jinja").write_text(template)
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return str(directory)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, set()),
        ({"generation": {"eos_token_id": 9}}, {9}),
        ({"generation": {"eos_token_id": [9, 8]}, "config": {"eos_token_id": 7}}, {9, 8, 7}),
        ({"config": {"text_config": {"eos_token_id": [6]}}}, {6}),
        ({"generation": {"eos_token_id": None}, "eos_token": "<|eos|>"}, {EOS}),
        # A fine-tune for chats with the generation configuration of its base model.
        ({"generation": {"eos_token_id": 9}, "eos_token": "<|eos|>"}, {9, EOS}),
        ({"eos_token": "<|eos|>", "template": "{{ messages[1].content }}\n<|user|>"}, {EOS, USER}),
        ({"template": "<|eos|>{{ messages[1].content }}</s><|user|>"}, set()),
        ({"template": "<|eos|>{% if messages[2] %}<|user|>{% endif %}"}, set()),
        ({"template": "{{ messages | nonsense }}"}, set()),
    ],
)
def test_end_tokens_come_from_every_file(tmp_path: Path, files: dict[str, Any], wanted: set[int]) -> None:
    assert read_end_ids(model(tmp_path, **files)) == wanted


def test_end_tokens_of_the_embedded_model() -> None:
    assert read_end_ids(str(MODEL_DIR)) == {EOS}


@pytest.mark.parametrize(
    ("generation", "wanted"),
    [
        (None, SamplingDefaults()),
        ({"do_sample": False, "max_new_tokens": 7}, SamplingDefaults()),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": None},
            SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95),
        ),
        ({"do_sample": False, "temperature": 1, "top_k": -1}, SamplingDefaults()),
        (
            {"temperature": 1e-9, "min_p": 0.05, "repetition_penalty": 1.05},
            SamplingDefaults(temperature=0.0, min_p=0.05, repetition_penalty=1.05),
        ),
    ],
)
def test_sampling_defaults(
    tmp_path: Path, generation: dict[str, Any] | None, wanted: SamplingDefaults
) -> None:
    path = model(tmp_path, generation=generation)
    assert read_sampling_defaults(path) == wanted
    assert PromptEncoder(ModelSettings(path=path)).card.sampling_defaults == wanted
    off = ModelSettings(path=path, sampling_defaults="none")
    assert PromptEncoder(off).card.sampling_defaults == SamplingDefaults()


@pytest.mark.parametrize("value", [7.5, "hot", -1])
def test_a_default_that_no_request_may_have_is_named(tmp_path: Path, value: object) -> None:
    path = model(tmp_path, generation={"temperature": value})
    with pytest.raises(
        ValueError, match=r"generation_config\.json: temperature must be .*sampling_defaults: none"
    ):
        PromptEncoder(ModelSettings(path=path))
    assert PromptEncoder(ModelSettings(path=path, sampling_defaults="none"))
