"""The committed files: small enough, loadable by both libraries, and able to answer."""

import re
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from deployments.model import MODEL_DIR
from deployments.model.training.evaluate import answers
from deployments.model.training.prompts import PROMPTS
from deployments.model.training.tokenizer import BOS, EOS

MAX_WEIGHT_BYTES = 8_000_000
TEXTS = ("Zoë in Málaga", "fox 🦊, rain 🌧️ and 🏳️‍🌈", "猫 и Москва", "こんにちは", "a\n\tb  c", "\x00\x7f", "𓀀")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def bare() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))


def test_weights_fit_in_eight_megabytes() -> None:
    assert (MODEL_DIR / "model.safetensors").stat().st_size <= MAX_WEIGHT_BYTES


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_the_tokenizer(bare: Tokenizer, text: str) -> None:
    assert bare.decode(bare.encode(text, add_special_tokens=False).ids) == text


@pytest.mark.parametrize("text", ["𓀀", "🦜", "龍"])
def test_a_rare_character_is_split_over_tokens(bare: Tokenizer, text: str) -> None:
    assert len(bare.encode(text, add_special_tokens=False).ids) > 1


@pytest.mark.parametrize("word", ["hedgehog", "Łukasz", "lighthouse", "forgetful", "umbrella"])
def test_a_word_that_a_story_can_be_about_is_one_token(bare: Tokenizer, word: str) -> None:
    assert len(bare.encode(f" {word}", add_special_tokens=False).ids) == 1


def test_both_libraries_encode_alike(tokenizer: Any, bare: Tokenizer) -> None:
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == bare.encode(text).ids
    assert bare.encode("x").ids[0] == bare.token_to_id(BOS)


def test_the_chat_template_marks_every_turn(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "Be kind. "},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
    ]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|bos|><|system|>Be kind.<|eos|><|user|>Hello<|eos|><|assistant|>Hi<|eos|><|user|>Bye<|eos|><|assistant|>"
    )


def test_the_chat_template_refuses_an_unknown_role(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="Roles are"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_model_and_tokenizer_agree_on_the_special_tokens(tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 2048
    for settings in (model.config, model.generation_config):
        assert settings.eos_token_id == tokenizer.convert_tokens_to_ids(EOS)
        assert settings.bos_token_id == tokenizer.convert_tokens_to_ids(BOS)
        assert settings.pad_token_id == tokenizer.pad_token_id


def test_three_answers_name_their_topic_and_end() -> None:
    for answer in answers(MODEL_DIR, (PROMPTS[0], PROMPTS[26], PROMPTS[39]), temperature=0.0):
        assert answer.named and answer.ended, answer.text
        assert re.search(r"[.!?\"]\s*\W*$", answer.text), answer.text
