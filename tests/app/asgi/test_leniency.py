"""First messages of clients get an answer; what can't be honoured is refused by name; tokens and models can be asked for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.app.asgi.test_application import World, check_error, live
from tests.cases.product_bodies import BODIES, HELLO


@pytest.mark.parametrize("product", BODIES)
def test_the_first_message_of_each_product_gets_an_answer(product: str) -> None:
    path, body = BODIES[product]

    async def test(world: World) -> None:
        # Some require a call, which needs a format of calls.
        fields = {
            "tool_calls": {"open": "<call>", "close": "</call>", "transform": {"function": "{content}"}}
        }
        world.models["letters"].card = msgspec.structs.replace(
            world.tokenizer.card, structured_output=True, response_template={"fields": fields}
        )
        response = await world.post(path, body)
        assert response.status_code == 200, response.text
        if body.get("stream"):
            assert response.content.endswith(b"data: [DONE]\n\n")
            assert b"error" not in response.content
        else:
            assert response.json()["choices"][0]["message"]["content"] == "ok"

    live(test)


def test_tools_that_the_model_would_not_be_shown_are_refused_before_anything_is_encoded() -> None:
    async def test(world: World) -> None:
        model = world.models["letters"]
        model.card = msgspec.structs.replace(world.tokenizer.card, shows_tools=False)
        tools = [{"type": "function", "function": {"name": "f"}}]
        for path in ("/v1/chat/completions", "/v1/streams", "/tokenize"):
            response = await world.post(path, {"messages": HELLO, "tools": tools})
            check_error(response, 400, "invalid_request", "tools")
            assert "The model letters has no tools" in response.json()["error"]["message"]
            body = {"messages": HELLO, "tools": tools, "tool_choice": "none", "stream": False}
            assert (await world.post(path, body)).status_code == 200
        assert all(not asked.tools for asked in world.tokenizer.encoded)

    live(test)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_more_tokens_than_are_left_are_cut(field: str) -> None:
    async def test(world: World) -> None:
        for asked in (32_000, 10**30, -1):
            response = await world.post("/v1/chat/completions", {"messages": HELLO, field: asked})
            assert response.status_code == 200, response.text
            assert world.generator.generations[-1].job.sampling.max_tokens == 64 - len("hello")

    live(test)


def test_what_is_done_with_a_prompt_reaches_the_tokenizer() -> None:
    async def test(world: World) -> None:
        fields = {"chat_template_kwargs": {"enable_thinking": False}, "add_generation_prompt": False}
        await world.post("/v1/chat/completions", {"messages": HELLO, **fields, "truncate_prompt_tokens": 3})
        [asked] = world.tokenizer.encoded
        assert asked.chat_template_kwargs == {"enable_thinking": False}
        assert (asked.add_generation_prompt, asked.truncate_prompt_tokens) == (False, 3)
        await world.post("/v1/completions", {"prompt": [104, 105, 106], "truncate_prompt_tokens": 2})
        assert world.generator.generations[-1].job.prompt == [105, 106]

    live(test)


def test_models_say_their_context_and_what_they_can_do() -> None:
    async def test(world: World) -> None:
        [model] = (await world.client.get("/v1/models")).json()["data"]
        assert model["max_model_len"] == 64
        assert model["abilities"] == {"tools": False, "reasoning": False, "structured_output": False}

    live(test)


def test_a_prompt_as_tokens_and_back() -> None:
    async def test(world: World) -> None:
        tokenized = await world.post("/tokenize", {"prompt": "hi", "return_token_strs": True})
        assert tokenized.json() == {
            "count": 2,
            "max_model_len": 64,
            "tokens": [104, 105],
            "token_strs": ["h", "i"],
        }
        chat = {"model": "letters", "messages": HELLO, "add_generation_prompt": False, "unknown": 1}
        assert (await world.post("/tokenize", chat)).json()["token_strs"] is None
        assert not world.tokenizer.encoded[-1].add_generation_prompt
        text = await world.post("/detokenize", {"tokens": [104, 105]})
        assert text.json() == {"prompt": "hi"}
        assert not world.generator.generations

    live(test)


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("/tokenize", {}, "prompt", "Exactly one of prompt and messages"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt", "Exactly one of prompt and messages"),
        ("/tokenize", {"prompt": 5}, "prompt", "must be a string"),
        ("/detokenize", {}, "tokens", "is required"),
        ("/detokenize", {"tokens": [128]}, "tokens", "names the token 128"),
        ("/detokenize", {"tokens": [5, -1]}, "tokens[1]", "at least 0"),
    ],
)
def test_tokenizing_is_refused_by_name(path: str, body: dict[str, Any], param: str, message: str) -> None:
    async def test(world: World) -> None:
        response = await world.post(path, body)
        check_error(response, 400, "invalid_request", param)
        assert message in response.json()["error"]["message"]

    live(test)


def test_with_several_models_the_tokenizer_must_be_named() -> None:
    async def test(world: World) -> None:
        check_error(await world.post("/detokenize", {"tokens": [1]}), 400, "invalid_request", "model")
        check_error(
            await world.post("/detokenize", {"tokens": [1], "model": "c"}), 404, "model_not_found", "model"
        )
        assert (await world.post("/detokenize", {"tokens": [104], "model": "b"})).json() == {"prompt": "h"}

    live(test, "a", "b")


def test_more_tokens_than_the_context_takes_are_not_decoded() -> None:
    async def test(world: World) -> None:
        response = await world.post("/detokenize", {"tokens": [104] * 65})
        check_error(response, 400, "context_length_exceeded", "tokens")

    live(test)


def test_tokens_and_models_are_json_without_raw_separators() -> None:
    async def test(world: World) -> None:
        model = world.models["letters"]
        model.card = msgspec.structs.replace(world.tokenizer.card, owned_by="a\u2028b\u2029c\x85d")
        for path in ("/v1/models", "/v1/models/letters"):
            assert b'"a\\u2028b\\u2029c\\u0085d"' in (await world.client.get(path)).content
        text = await world.post("/detokenize", {"tokens": [104]})
        assert (text.content, text.headers["content-type"]) == (b'{"prompt":"h"}', "application/json")

    live(test)


def test_embeddings_are_not_found_in_words() -> None:
    async def test(world: World) -> None:
        response = await world.post("/v1/embeddings", {"model": "letters", "input": "hi"})
        check_error(response, 404, "not_found")
        assert "letters" in response.json()["error"]["message"]
        assert "/v1/chat/completions" in response.json()["error"]["message"]

    live(test)
