"""The real OpenAI SDK against the running server with the embedded model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from tests.integration.cluster import Cluster

MODEL = "storyteller"
QUESTION = [{"role": "user", "content": "Tell me a story about a fox."}]


@pytest.fixture(scope="module")
def client(server: Cluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client: OpenAI, **fields: object) -> openai.types.chat.ChatCompletion:
    settings = {"model": MODEL, "messages": QUESTION, "max_tokens": 40, "temperature": 0, **fields}
    return client.chat.completions.create(**settings)  # type: ignore[call-overload, no-any-return]


def streamed(client: OpenAI, **fields: object) -> list[openai.types.chat.ChatCompletionChunk]:
    settings = {"model": MODEL, "messages": QUESTION, "max_tokens": 40, "temperature": 0, **fields}
    return list(client.chat.completions.create(**settings, stream=True))  # type: ignore[call-overload]


def text_of(chunks: list[openai.types.chat.ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_chat_streamed_and_whole_say_the_same(client: OpenAI) -> None:
    whole = chat(client)
    chunks = streamed(client, stream_options={"include_usage": True})
    assert text_of(chunks) == whole.choices[0].message.content
    assert whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert [reason for reason in reasons if reason] == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert whole.usage is not None and whole.usage.completion_tokens <= 40
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_completions_streamed_and_whole_say_the_same(client: OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=24, temperature=0)
    chunks = list(
        client.completions.create(
            model=MODEL, prompt="Once upon a time", max_tokens=24, temperature=0, stream=True
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.choices[0].text and whole.object == "text_completion"


def test_several_prompts_have_choices_in_their_order(client: OpenAI) -> None:
    prompts = ["Once upon a time", "The fox", "A cow"]
    whole = client.completions.create(model=MODEL, prompt=prompts, max_tokens=12, n=2, seed=3, echo=True)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3, 4, 5]
    assert all(choice.text.startswith(prompts[choice.index // 2]) for choice in whole.choices)
    texts = [""] * 6
    for chunk in client.completions.create(
        model=MODEL, prompt=prompts, max_tokens=12, n=2, seed=3, echo=True, stream=True
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    alone = client.completions.create(model=MODEL, prompt=prompts[2], max_tokens=12, n=2, seed=5, echo=True)
    assert [choice.text for choice in alone.choices] == texts[4:]


def test_a_stop_string_ends_the_text_before_it(client: OpenAI) -> None:
    whole = chat(client).choices[0].message.content or ""
    stop = whole[10:16]
    stopped = chat(client, stop=[stop]).choices[0]
    assert stopped.message.content == whole[: whole.index(stop)]
    assert stopped.finish_reason == "stop"
    assert text_of(streamed(client, stop=stop)) == stopped.message.content


def test_a_seed_repeats_the_text_and_another_does_not(client: OpenAI) -> None:
    first, second, other = (
        chat(client, temperature=1.5, seed=seed).choices[0].message.content for seed in (7, 7, 8)
    )
    assert first == second
    assert first != other


def test_choices_and_logprobs(client: OpenAI) -> None:
    answer = chat(client, n=2, temperature=1.2, seed=1, logprobs=True, top_logprobs=3, max_tokens=6)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].message.content != answer.choices[1].message.content
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert len(logprobs.content) == 6
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in logprobs.content)
    assert len(chat(client, n=1).choices) == 1


def test_an_answer_fits_the_schema_that_it_was_asked_for(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "animal": {"enum": ["fox", "owl"]},
            "legs": {"type": "integer", "maximum": 9, "minimum": 0},
        },
        "required": ["animal", "legs"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema, "strict": True}}
    whole = chat(client, response_format=wanted).choices[0]
    answer = json.loads(whole.message.content or "")
    assert whole.finish_reason == "stop" and list(answer) == ["animal", "legs"]
    assert answer["animal"] in ("fox", "owl") and 0 <= answer["legs"] <= 9
    assert text_of(streamed(client, response_format=wanted)) == whole.message.content
    one = chat(client, extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert one.choices[0].message.content in ("yes", "no")
    card = client.models.retrieve(MODEL)
    assert card.model_dump()["abilities"]["structured_output"] is True


def test_an_answer_that_is_cut_says_length(client: OpenAI) -> None:
    answer = chat(client, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "nothing"}, openai.NotFoundError, "model"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"max_tokens": "many"}, openai.BadRequestError, "max_tokens"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "none", "schema": {"type": "string", "not": {}}},
                }
            },
            openai.BadRequestError,
            "response_format",
        ),
        ({"messages": [{"role": "user", "content": "fox " * 3000}]}, openai.BadRequestError, "messages"),
    ],
)
def test_errors_are_the_sdks_own(
    client: OpenAI, fields: dict[str, object], error: type[openai.APIStatusError], param: str
) -> None:
    for call in (chat, streamed):
        with pytest.raises(error) as raised:
            call(client, **fields)
        assert isinstance(raised.value.body, dict)
        assert raised.value.body["param"] == param


def test_models(client: OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")
