"""What a request says of how its prompt is made: the template's variables, where the answer begins, what is added and cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.schema.requests import GenerationRequest, Message
from app.schema.sampling import SamplingParams
from app.settings import ModelSettings
from deployments.model import MODEL_DIR
from deployments.model.files import bare_copy
from deployments.tokenizer.prompt_encoder import PromptEncoder

CHAT = (Message("user", "What does a cow say?"), Message("assistant", "A cow says "))
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|eos|>{% endfor %}"
    "{% if enable_thinking %}think{% endif %}{{ notes }}{% if documents %}{{ documents[0].text }}{% endif %}"
)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(ModelSettings())


def with_template(directory: Path, template: str) -> PromptEncoder:
    """The embedded model with another template."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((MODEL_DIR / name).read_bytes())
    (directory / "chat_template.jinja").write_text(template)
    return PromptEncoder(ModelSettings(path=str(directory)))


def ids_of(text: str) -> list[int]:
    tokenizer = bare_copy((MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8"))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def chat(max_tokens: int = 5, **fields: Any) -> GenerationRequest:
    return GenerationRequest(
        model="m", sampling=SamplingParams(max_tokens=max_tokens), messages=CHAT, **fields
    )


def prompt(text: str, max_tokens: int = 5, **fields: Any) -> GenerationRequest:
    return GenerationRequest(model="m", sampling=SamplingParams(max_tokens=max_tokens), prompt=text, **fields)


def test_a_message_that_is_continued_has_no_end(encoder: PromptEncoder) -> None:
    asked = chat(continue_final_message=True, add_generation_prompt=False)
    # The space at the end stays, which the template would take off.
    assert encoder.encode(asked) == ids_of(
        "<|bos|><|user|>What does a cow say?<|eos|><|assistant|>A cow says "
    )


def test_a_continued_message_may_name_control_tokens(encoder: PromptEncoder) -> None:
    messages = (Message("user", "Say <|eos|>"), Message("assistant", "<|eos|> is"))
    asked = GenerationRequest(
        model="m", sampling=SamplingParams(max_tokens=5), messages=messages, continue_final_message=True,
        add_generation_prompt=False,
    )  # fmt: skip
    ids = encoder.encode(asked)
    [eos] = ids_of("<|eos|>")
    assert ids.count(eos) == 1
    assert ids[-1:] == ids_of(" is")[-1:]


def test_a_template_that_leaves_the_last_message_out_cannot_continue_it(tmp_path: Path) -> None:
    encoder = with_template(tmp_path, "{{ messages[0].content }}")
    with pytest.raises(InvalidRequest, match="can't be continued") as caught:
        encoder.encode(chat(continue_final_message=True))
    assert caught.value.param == "continue_final_message"


def test_the_template_need_not_begin_the_answer(encoder: PromptEncoder) -> None:
    whole = encoder.encode(chat())
    assert encoder.encode(chat(add_generation_prompt=False)) == whole[:-1]
    assert whole[-1:] == ids_of("<|assistant|>")


def test_variables_reach_the_template(tmp_path: Path) -> None:
    encoder = with_template(tmp_path, TEMPLATE)
    plain = encoder.encode(chat())
    given = {"enable_thinking": True, "notes": " notes", "documents": [{"text": " of cows"}], "unused": 1}
    assert encoder.encode(chat(chat_template_kwargs=given)) == plain + ids_of("think notes of cows")
    assert encoder.encode(chat(chat_template_kwargs={"enable_thinking": False})) == plain


def test_control_tokens_in_variables_are_text(tmp_path: Path) -> None:
    encoder = with_template(tmp_path, TEMPLATE)
    [eos] = ids_of("<|eos|>")
    given = {"notes": "<|eos|>", "documents": [{"text": "<|eos|>"}]}
    assert encoder.encode(chat(chat_template_kwargs=given)).count(eos) == encoder.encode(chat()).count(eos)


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token", "chat_template"])
def test_variables_that_are_not_the_clients_are_refused(encoder: PromptEncoder, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"can't have {name}") as caught:
        encoder.encode(chat(chat_template_kwargs={name: "x"}))
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_a_prompt_without_special_tokens(encoder: PromptEncoder) -> None:
    assert encoder.encode(prompt("Once")) == ids_of("<|bos|>Once")
    assert encoder.encode(prompt("Once", add_special_tokens=False)) == ids_of("Once")
    assert encoder.encode(prompt("<|bos|>Once", add_special_tokens=False)) == ids_of("<|bos|>Once")


def test_a_beginning_that_the_prompt_spells_out_is_not_put_before_it_again(encoder: PromptEncoder) -> None:
    assert encoder.encode(prompt("<|bos|>Once")) == ids_of("<|bos|>Once")
    assert encoder.encode(prompt("<|bos|><|bos|>Once")) == ids_of("<|bos|><|bos|>Once")
    assert encoder.encode(prompt("Once<|bos|>")) == ids_of("<|bos|>Once<|bos|>")
    assert encoder.encode(prompt(" <|bos|>")) == ids_of("<|bos|> <|bos|>")


def test_of_a_prompt_the_last_tokens_stay(encoder: PromptEncoder) -> None:
    whole = encoder.encode(prompt("Once upon a time there was a fox"))
    assert encoder.encode(prompt("Once upon a time there was a fox", truncate_prompt_tokens=2)) == whole[-2:]
    assert encoder.encode(prompt("Once upon a time there was a fox", truncate_prompt_tokens=900)) == whole
    long = prompt(" fox" * 3000, max_tokens=48, truncate_prompt_tokens=-1)
    assert encoder.encode(long) == ids_of(" fox" * 2000)
