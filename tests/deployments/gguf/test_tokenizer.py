from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from app.schema.requests import GenerationRequest, Message
from app.schema.sampling import SamplingDefaults, SamplingParams
from app.settings import ModelSettings
from deployments.gguf.tokenizer import load_tokenizer
from deployments.model.files import read_end_ids
from deployments.tokenizer.prompt_encoder import PromptEncoder
from tests.deployments.gguf.harness import CONTEXT, END, TEMPLATE, TOKENS, make_llama, write_gguf

ROOT = Path(__file__).parents[3]
TEXTS = ["hello hello", " two  spaces", "Çà 狐狸 🦊\n\tx", "<|im_end|>", "<|endoftext|>", ""]


def write(directory: Path, **values: Any) -> str:
    """A file with other metadata; the names are those of the keys in the group `tokenizer`, with `_` for `.`."""
    changed = {f"tokenizer.{key.replace('ggml_', 'ggml.', 1)}": value for key, value in values.items()}
    return write_gguf(directory / "a.gguf", make_llama(), values=changed)


def request(prompt: str | None = None, *messages: Message) -> GenerationRequest:
    return GenerationRequest(
        model="m", sampling=SamplingParams(max_tokens=1), prompt=prompt, messages=messages or None
    )


@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back(tmp_path: Path, text: str) -> None:
    encoder = PromptEncoder(ModelSettings(path=write(tmp_path)))
    ids = encoder.encode(request(text))
    assert encoder._plain.decode(ids, skip_special_tokens=False) == text


def test_the_vocabulary_is_that_of_the_file(tmp_path: Path) -> None:
    encoder = PromptEncoder(ModelSettings(path=write(tmp_path)))
    assert {encoder._plain.id_to_token(number): number for number in range(len(TOKENS))} == {
        token: number for number, token in enumerate(TOKENS)
    }
    assert encoder._plain.get_vocab_size() == len(TOKENS)
    assert [encoder._plain.id_to_token(number) for number in encoder.encode(request("hello hello"))] == [
        "hello",
        "Ġhello",
    ]
    assert encoder.encode(request("<|im_end|>")) == [END]
    assert END not in encoder.encode_text("<|im_end|>")


def test_no_token_is_added_to_the_vocabulary(tmp_path: Path) -> None:
    """transformers' tokenizers bring control tokens of their own, which the model has no embedding for."""
    tokens = ["<|none|>", *TOKENS[1:]]
    encoder = PromptEncoder(ModelSettings(path=write(tmp_path, ggml_tokens=tokens)))
    assert encoder._plain.get_vocab_size() == len(TOKENS)
    for ids in (encoder.encode(request("<|endoftext|>")), encoder.encode_text("<|endoftext|>")):
        assert max(ids) < len(TOKENS)
        assert encoder._plain.decode(ids, skip_special_tokens=False) == "<|endoftext|>"


def test_the_card_says_what_the_file_says(tmp_path: Path) -> None:
    path = write(tmp_path)
    card = PromptEncoder(ModelSettings(path=path)).card
    assert (card.vocab_size, card.max_model_len_tokens, card.has_chat_template) == (
        len(TOKENS),
        CONTEXT,
        True,
    )
    assert card.created == int(Path(path).stat().st_mtime)
    assert card.sampling_defaults == SamplingDefaults()


def test_messages_go_through_the_template_of_the_file(tmp_path: Path) -> None:
    encoder = PromptEncoder(ModelSettings(path=write(tmp_path)))
    ids = encoder.encode(request(None, Message("user", "hello")))
    assert encoder._plain.decode(ids, skip_special_tokens=False) == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids[0] == 1 and END in ids
    assert not PromptEncoder(ModelSettings(path=write(tmp_path, chat_template=None))).card.has_chat_template


def test_a_text_begins_with_the_token_that_the_file_wants(tmp_path: Path) -> None:
    path = write(tmp_path, ggml_add_bos_token=True)
    encoder = PromptEncoder(ModelSettings(path=path))
    assert encoder.encode(request("hello"))[0] == 1
    assert encoder.encode(request(None, Message("user", "hello")))[:2] != [1, 1]


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["ĠĠ", "1", "2", "ĠĠ", "1"]),  # the digits apart first, then the spaces
        ("gpt-2", ["Ġ", "Ġ1", "2", "Ġ", "Ġ1"]),
        (None, ["Ġ", "Ġ1", "2", "Ġ", "Ġ1"]),
        ("qwen2", ["Ġ", "Ġ", "1", "2", "Ġ", "Ġ", "1"]),
        ("unheard-of", ["Ġ", "Ġ1", "2", "Ġ", "Ġ1"]),
    ],
)
def test_texts_are_split_as_the_file_names_it(
    tmp_path: Path, pre: str | None, pieces: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(write(tmp_path, ggml_pre=pre))
    assert tokenizer.tokenize("  12  1") == pieces
    assert [record.name for record in caplog.records] == (
        ["deployments.gguf.tokenizer"] if pre == "unheard-of" else []
    )


def test_the_tokenizer_is_that_of_transformers(tmp_path: Path) -> None:
    path = write(tmp_path, ggml_pre="qwen2", ggml_add_bos_token=True)
    ours = load_tokenizer(path)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="a.gguf")
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.chat_template == theirs.chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, {END}),
        ({"ggml_eos_token_id": None, "chat_template": None}, set()),
        ({"ggml_eos_token_id": None}, {END}),  # by the template
        ({"ggml_eos_token_id": 0, "ggml_eot_token_id": 5, "ggml_eom_token_id": 6}, {0, END, 5, 6}),
    ],
)
def test_the_end_tokens_come_from_the_file_and_its_template(
    tmp_path: Path, values: dict[str, Any], wanted: set[int]
) -> None:
    assert read_end_ids(write(tmp_path, **values)) == wanted


def test_sampling_defaults_come_from_the_file(tmp_path: Path) -> None:
    values = {"temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "penalty_repeat": 1.05}
    path = write_gguf(
        tmp_path / "a.gguf",
        make_llama(),
        values={f"general.sampling.{key}": value for key, value in values.items()},
    )
    assert PromptEncoder(ModelSettings(path=path)).card.sampling_defaults == SamplingDefaults(
        temperature=0.6, top_k=20, top_p=0.95, min_p=0.05, repetition_penalty=1.05
    )
    off = ModelSettings(path=path, sampling_defaults="none")
    assert PromptEncoder(off).card.sampling_defaults == SamplingDefaults()


def test_a_default_that_no_request_may_have_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", make_llama(), values={"general.sampling.temp": 7.5})
    with pytest.raises(ValueError, match=rf"{path}, general\.sampling: temperature must be"):
        PromptEncoder(ModelSettings(path=path))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"ggml_tokens": None}, "without a tokenizer"),
        ({"ggml_model": "rwkv"}, "can't be made: .*rwkv"),
        ({"ggml_merges": ["not a merge"]}, "can't be made"),
        ({"ggml_eos_token_id": 100_000}, "can't be made"),
    ],
)
def test_a_file_without_a_tokenizer_that_works_is_refused(
    tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path, **values)
    with pytest.raises(ValueError, match=rf"{path} is a GGUF file .*{reason}"):
        PromptEncoder(ModelSettings(path=path))


def test_the_tokenizer_is_made_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from app.settings import ModelSettings; from deployments.tokenizer.prompt_encoder import PromptEncoder;"
        "PromptEncoder(ModelSettings(path=sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, write(tmp_path)], cwd=ROOT).returncode == 0
