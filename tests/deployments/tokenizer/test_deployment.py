"""The prompt encoder on the embedded model's tokenizer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import tokenizers
import transformers

from app.errors import InvalidRequest, PromptTooLong
from app.schema.constraint import Constraint
from app.schema.requests import GenerationRequest, Message
from app.schema.sampling import SamplingParams
from app.settings import ModelSettings
from deployments.messages.call import Request, decode_reply
from deployments.messages.call import encode as encode_message
from deployments.messages.tokenizer import CheckConstraint, Describe, EncodePrompt, EncodeText
from deployments.model import MODEL_DIR
from deployments.model.files import SIMULATED_OWNER, bare_copy, load_tokenizer, printable_token_ids
from deployments.tokenizer.deployment import Tokenizer
from deployments.tokenizer.prompt_encoder import MIN_CHARACTERS_PER_TOKEN, PromptEncoder


def request(
    prompt: str | None = None, *messages: Message, ids: tuple[int, ...] | None = None
) -> GenerationRequest:
    return GenerationRequest(
        model="m",
        sampling=SamplingParams(max_tokens=1),
        prompt=prompt,
        messages=messages or None,
        prompt_token_ids=ids,
    )


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(ModelSettings(name="m"))


def bare() -> tokenizers.Tokenizer:
    return bare_copy((MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8"))


def test_card(encoder: PromptEncoder) -> None:
    card = encoder.card
    assert (card.name, card.owned_by, card.has_chat_template) == ("m", "streaming-inference", True)
    assert card.vocab_size >= bare().get_vocab_size()
    assert card.max_model_len_tokens == 2048
    assert card.structured_output
    assert bare_copy(card.tokenizer_json).encode("Once there was").ids == bare().encode("Once there was").ids


def test_a_simulated_model_says_so() -> None:
    card = PromptEncoder(ModelSettings(engine="simulated")).card
    assert card.owned_by == SIMULATED_OWNER and not card.structured_output


def test_plain_prompts_are_encoded_as_the_tokenizer_does(encoder: PromptEncoder) -> None:
    text = "Once there was a fox. Çà et là, 狐狸 🦊"
    ids = encoder.encode(request(text))
    assert ids == bare().encode(text).ids
    assert bare().decode(ids) == text


def test_ids_pass_as_they_are(encoder: PromptEncoder) -> None:
    assert encoder.encode(request(ids=(5, 4, 3))) == [5, 4, 3]


def test_messages_go_through_the_template(encoder: PromptEncoder) -> None:
    messages = (Message("user", "Tell me a story."),)
    turns = [{"role": "user", "content": "Tell me a story."}]
    rendered = encoder._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert "Tell me a story." in str(rendered)
    assert (
        encoder.encode(request(None, *messages)) == bare().encode(str(rendered), add_special_tokens=False).ids
    )


def test_a_piece_of_text_has_nothing_special(encoder: PromptEncoder) -> None:
    special = next(text for text, added in encoder._tokenizer.get_added_vocab().items())
    text = f" and then {special} 狐狸"
    ids = encoder.encode_text(text)
    named = encoder._tokenizer.convert_tokens_to_ids(special)
    assert named not in ids
    assert bare().decode(ids, skip_special_tokens=False) == text
    assert named in encoder.encode(request(text)), "prompts may name special tokens, also after that"
    assert encoder.encode_text("") == []
    with pytest.raises(PromptTooLong) as caught:
        encoder.encode_text("x" * (MIN_CHARACTERS_PER_TOKEN * encoder.card.max_model_len_tokens + 1))
    assert caught.value.param == "text"


@pytest.mark.parametrize("field", ["prompt", "messages"])
def test_a_prompt_without_room_for_an_answer_is_refused_where_it_is_encoded(
    encoder: PromptEncoder, field: str
) -> None:
    text = " fox" * encoder.card.max_model_len_tokens
    asked = request(text) if field == "prompt" else request(None, Message("user", text))
    with pytest.raises(PromptTooLong, match="more than the 2047 that are allowed") as caught:
        encoder.encode(asked)
    assert caught.value.param == field


@pytest.mark.parametrize("field", ["prompt", "messages"])
def test_text_that_cannot_fit_is_refused_before_it_is_encoded(encoder: PromptEncoder, field: str) -> None:
    text = "x" * (MIN_CHARACTERS_PER_TOKEN * encoder.card.max_model_len_tokens + 1)
    asked = request(text) if field == "prompt" else request(None, Message("user", text))
    with pytest.raises(PromptTooLong) as caught:
        encoder.encode(asked)
    assert caught.value.param == field


def test_text_of_long_tokens_is_not_refused(tmp_path: Path) -> None:
    spaces = 64
    vocab = {
        token: number for number, token in enumerate(["a", "Ġ", *("Ġ" * 2**power for power in range(1, 7))])
    }
    merges = [("Ġ" * 2**power, "Ġ" * 2**power) for power in range(6)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    (tmp_path / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 10}')
    encoder = PromptEncoder(ModelSettings(path=str(tmp_path)))
    assert len(encoder.encode(request(" " * (spaces * 9)))) == 9
    assert len(encoder.encode_text(" " * (spaces * 10))) == 10
    with pytest.raises(PromptTooLong):
        encoder.encode(request(" " * (spaces * 10 + 1)))


def test_messages_that_the_template_refuses(encoder: PromptEncoder, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((MODEL_DIR / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('Roles must alternate.') }}")
    strict = PromptEncoder(ModelSettings(path=str(tmp_path)))
    with pytest.raises(InvalidRequest) as caught:
        strict.encode(request(None, Message("user", "hi")))
    assert "Roles must alternate." in caught.value.message and caught.value.param == "messages"


@pytest.mark.parametrize(
    "template", ["{{ messages[7].content }}", "{{ messages | length | nonsense }}", "{{ 1 + 'a' }}"]
)
def test_a_template_that_breaks_shows_nothing_of_itself(tmp_path: Path, template: str) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((MODEL_DIR / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template)
    broken = PromptEncoder(ModelSettings(path=str(tmp_path)))
    with pytest.raises(InvalidRequest) as caught:
        broken.encode(request(None, Message("user", "hi")))
    assert caught.value.message == "The model's chat template refuses these messages."


def test_threads_do_not_mix_up_their_prompts(encoder: PromptEncoder) -> None:
    prompts = [f"Prompt {number} " * (number % 50 + 1) for number in range(200)]
    alone = [bare().encode(prompt).ids for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda prompt: encoder.encode(request(prompt)), prompts)) == alone


Result = TypeVar("Result")


async def answer(deployment: Tokenizer, request: Request[Result]) -> Result:
    return decode_reply(request, await deployment.call(encode_message(request)))


def test_deployment_answers_with_data() -> None:
    async def main() -> None:
        deployment = Tokenizer(ModelSettings(name="m"))
        assert (await answer(deployment, Describe())).name == "m"
        assert await answer(deployment, EncodePrompt(request("Once"))) == bare().encode("Once").ids
        plain = bare().encode("Once", add_special_tokens=False)
        assert await answer(deployment, EncodeText("Once")) == plain.ids
        with pytest.raises(PromptTooLong) as raised:
            await answer(deployment, EncodePrompt(request("x" * 1_000_000)))
        assert raised.value.code == "context_length_exceeded"
        await answer(deployment, CheckConstraint(Constraint(kind="regex", text="a+")))
        with pytest.raises(InvalidRequest) as refused:
            await answer(deployment, CheckConstraint(Constraint(kind="regex", text="(")))
        assert refused.value.param == "response_format"
        deployment._checker.close()

    asyncio.run(main())


def test_a_tokenizer_of_the_generic_kind_is_loaded_without_torch() -> None:
    code = (
        "import sys; from app.settings import ModelSettings; from deployments.tokenizer.prompt_encoder import PromptEncoder;"
        "PromptEncoder(ModelSettings()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=MODEL_DIR.parents[2]).returncode == 0


def test_another_class_of_tokenizer_is_loaded_as_transformers_would(tmp_path: Path) -> None:
    merges: list[Any] = [("a", "b")]
    tokenizer = transformers.GPT2Tokenizer(vocab={"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}, merges=merges)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt2", "vocab_size": 7, "max_position_embeddings": 9}'
    )
    encoder = PromptEncoder(ModelSettings(path=str(tmp_path)))
    assert encoder.encode(request("ab")) == [3]
    assert (encoder.card.vocab_size, encoder.card.max_model_len_tokens) == (7, 9)
    assert not encoder.card.has_chat_template
    with pytest.raises(InvalidRequest):
        encoder.encode(request(None, Message("user", "ab")))


def test_printable_token_ids_are_visible_text() -> None:
    tokenizer = load_tokenizer(str(MODEL_DIR))
    ids = printable_token_ids(tokenizer)
    assert len(ids) > 20
    texts = [tokenizer.decode([token_id]) for token_id in ids]
    assert all(text.strip() and "\ufffd" not in text for text in texts), "no parts of characters"
