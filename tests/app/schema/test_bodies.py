"""What a body asks for, in every dialect, becomes one kind of request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from app.errors import InvalidRequest
from app.schema.native import StreamBody
from app.schema.openai import COMPLETION_MAX_TOKENS, ChatCompletionBody, CompletionBody
from app.schema.requests import GenerationRequest, Message
from app.schema.sampling import SamplingParams
from app.settings import LimitsSettings
from app.validation import parse_body, parse_object

LIMITS = LimitsSettings()
MESSAGES = [{"role": "user", "content": "Hello."}]
DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def native(**fields: Any) -> GenerationRequest:
    return parse_object(StreamBody, fields).to_request(LIMITS, "storyteller")


def chat(**fields: Any) -> GenerationRequest:
    return parse_object(ChatCompletionBody, {"messages": MESSAGES} | fields).to_request(LIMITS, "storyteller")


def completion(**fields: Any) -> GenerationRequest:
    return parse_object(CompletionBody, {"prompt": "a"} | fields).to_request(LIMITS, "storyteller")


def test_defaults_of_a_native_body() -> None:
    assert native(prompt="a") == GenerationRequest(
        model="storyteller",
        sampling=SamplingParams(max_tokens=0),
        left_out=DEFAULTED,
        prompt="a",
        stream=True,
        on_disconnect="grace",
    )


def test_every_field_of_a_native_body() -> None:
    raw = json.dumps(
        {
            "model": "other",
            "prompt_token_ids": [1, 2],
            "max_tokens": 7,
            "min_tokens": 3,
            "ignore_eos": True,
            "temperature": 1,
            "top_p": 0.5,
            "top_k": -1,
            "min_p": 0.25,
            "seed": -5,
            "presence_penalty": -2,
            "frequency_penalty": 2,
            "repetition_penalty": 1.5,
            "logit_bias": {"7": -100, "0": 1},
            "stop": ["a", "b"],
            "stop_token_ids": [9],
            "n": 8,
            "logprobs": 20,
            "return_token_ids": True,
            "response_format": {"type": "text"},
            "stream": False,
            "detach": False,
            "timeout_s": 600,
            "on_disconnect": "continue",
        }
    ).encode()
    assert parse_body(StreamBody, raw).to_request(LIMITS, None) == GenerationRequest(
        model="other",
        sampling=SamplingParams(
            max_tokens=7,
            min_tokens=3,
            ignore_eos=True,
            temperature=1.0,
            top_p=0.5,
            top_k=0,
            min_p=0.25,
            seed=-5,
            presence_penalty=-2.0,
            frequency_penalty=2.0,
            repetition_penalty=1.5,
            logit_bias={7: -100.0, 0: 1.0},
            stop_token_ids=(9,),
            logprobs=20,
        ),
        seed=-5,
        prompt_token_ids=(1, 2),
        stop=("a", "b"),
        n=8,
        return_token_ids=True,
        stream=False,
        timeout_s=600.0,
        on_disconnect="continue",
    )


def test_a_detached_stream_waits_for_no_reader_unless_it_says_so() -> None:
    assert native(prompt="a", detach=True).detach
    assert native(prompt="a", detach=True).on_disconnect == "continue"
    assert native(prompt="a", detach=True, on_disconnect="grace").on_disconnect == "grace"
    assert native(prompt="a", detach=False).on_disconnect == "grace"


def test_null_is_the_same_as_nothing() -> None:
    nulls = {name: None for name in StreamBody.model_fields if name != "prompt"}
    assert native(prompt="a", **nulls) == native(prompt="a")
    assert chat(**{name: None for name in ChatCompletionBody.model_fields if name != "messages"}) == chat()
    assert (
        completion(**{name: None for name in CompletionBody.model_fields if name != "prompt"}) == completion()
    )


def test_a_request_survives_the_message_format_of_the_store() -> None:
    request = native(prompt="a", logit_bias={"7": 1}, stop="x", seed=2**63 - 1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=GenerationRequest) == request


@pytest.mark.parametrize(
    ("given", "meant"),
    [(0, 0.0), (1e-6, 0.0), (1e-5, 1e-5), (2, 2.0)],
)
def test_a_temperature_too_small_to_divide_by_is_greedy(given: float, meant: float) -> None:
    assert native(prompt="a", temperature=given).sampling.temperature == meant


@pytest.mark.parametrize("ask", [native, chat, completion])
@pytest.mark.parametrize("value", [1.0, None])
def test_a_default_that_is_given_is_not_left_out(
    ask: Callable[..., GenerationRequest], value: float | None
) -> None:
    prompt = {"prompt": "a"} if ask is native else {}
    left_out = ask(**prompt, temperature=value, top_p=value).left_out
    assert set(DEFAULTED) - set(left_out) == (set() if value is None else {"temperature", "top_p"})


def test_a_stop_string_alone_is_a_list_of_one() -> None:
    assert native(prompt="a", stop="x").stop == ("x",)
    assert native(prompt="a", stop=[]).stop == ()


def test_messages_are_put_together() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
    request = native(
        messages=[{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    )
    assert request.messages == (Message("system", "Be kind."), Message("user", "Hello."))


def test_chat_messages_may_carry_what_other_servers_read() -> None:
    part = {"type": "text", "text": "Hello.", "cache_control": {"type": "ephemeral"}}
    request = chat(
        messages=[{"role": "user", "content": [part], "name": "Ann", "tool_calls": None, "refusal": None}]
    )
    assert request.messages == (Message("user", "Hello.", name="Ann"),)


def test_the_model_may_be_left_out_when_there_is_one() -> None:
    assert native(prompt="a").model == "storyteller"
    with pytest.raises(InvalidRequest, match="model is required") as refusal:
        parse_object(StreamBody, {"prompt": "a"}).to_request(LIMITS, None)
    assert refusal.value.param == "model"


def test_a_chat_asks_for_the_same_as_a_native_body() -> None:
    fields: dict[str, Any] = {
        "messages": MESSAGES,
        "model": "storyteller",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "seed": 1,
        "stop": "x",
        "n": 2,
        "logit_bias": {"1": 2},
        "stop_token_ids": [3],
        "min_tokens": 1,
        "repetition_penalty": 1.1,
        "return_token_ids": True,
        "timeout_s": 5,
        "stream": True,
        "on_disconnect": "grace",
    }
    assert chat(**fields) == native(**fields)
    assert chat(**fields, logprobs=True, top_logprobs=2) == native(**fields, logprobs=2)


def test_defaults_of_the_openai_bodies() -> None:
    assert chat() == GenerationRequest(
        model="storyteller",
        sampling=SamplingParams(max_tokens=0),
        left_out=DEFAULTED,
        messages=(Message("user", "Hello."),),
        stream=False,
        on_disconnect="cancel",
    )
    assert completion() == GenerationRequest(
        model="storyteller",
        sampling=SamplingParams(max_tokens=COMPLETION_MAX_TOKENS),
        left_out=DEFAULTED,
        prompt="a",
        stream=False,
        on_disconnect="cancel",
    )


@pytest.mark.parametrize(
    "fields", [{"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 5}]
)
def test_either_name_of_the_limit(fields: dict[str, int]) -> None:
    assert chat(**fields).sampling.max_tokens == 5


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_chat_logprobs(fields: dict[str, Any], logprobs: int | None) -> None:
    assert chat(**fields).sampling.logprobs == logprobs


@pytest.mark.parametrize(
    ("prompt", "text", "ids"),
    [("a", "a", None), (["a"], "a", None), ([1, 2], None, (1, 2)), ([[1, 2]], None, (1, 2))],
)
def test_shapes_of_a_completion_prompt(prompt: object, text: str | None, ids: tuple[int, ...] | None) -> None:
    request = completion(prompt=prompt)
    assert (request.prompt, request.prompt_token_ids) == (text, ids)


def test_openai_fields_that_ask_for_nothing_are_taken() -> None:
    ignored: dict[str, Any] = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "auto",
        "functions": [],
        "skip_special_tokens": True,
        "priority": 0,
        "cache_salt": "salt",
        "moderation": None,
        "modalities": ["text"],
        "audio": None,
        "add_generation_prompt": True,
        "never_heard_of": {"deep": [1]},
    }
    assert chat(**ignored) == chat()
    assert completion(echo=False, suffix="", best_of=1, user="u", use_beam_search=False) == completion()


def test_tools_that_are_not_to_be_used_change_nothing() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert chat(tools=[tool], tool_choice="none") == chat(tool_choice="none")
    assert chat(functions=[{"name": "f"}], function_call="none") == chat()


@pytest.mark.parametrize(("ask", "value"), [(chat, -1), (completion, -1)])
def test_minus_one_is_as_many_tokens_as_fit(ask: Callable[..., GenerationRequest], value: int) -> None:
    assert ask(max_tokens=value).sampling.max_tokens == 0


@pytest.mark.parametrize("ask", [native, chat, completion])
def test_numbers_that_mean_no_limit_fit_into_every_message(ask: Callable[..., GenerationRequest]) -> None:
    prompt = {"prompt": "a"} if ask is native else {}
    request = ask(**prompt, max_tokens=10**30, min_tokens=10**29)
    assert (request.sampling.max_tokens, request.sampling.min_tokens) == (2**31 - 1, 2**31 - 1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=GenerationRequest) == request


@pytest.mark.parametrize("stop", ["", [], [""], [None], ["", None], None])
def test_empty_stop_strings_are_none(stop: object) -> None:
    assert chat(stop=stop) == chat()
    assert chat(stop=["", "a", None, "b"]).stop == ("a", "b")
    assert len(chat(stop=[str(number) for number in range(256)]).stop) == 256


@pytest.mark.parametrize(
    ("given", "meant"), [(0, 0), (2**63 - 1, 2**63 - 1), (2**63, -(2**63)), (2**64 - 1, -1), (-1, -1)]
)
def test_a_seed_is_any_number_of_64_bits(given: int, meant: int) -> None:
    request = chat(seed=given)
    assert request.seed == request.sampling.seed == meant


def test_a_top_p_of_zero_leaves_the_likeliest_token() -> None:
    assert 0 < chat(top_p=0).sampling.top_p < 1e-6
    assert "top_p" not in chat(top_p=0).left_out


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"role": "assistant"}, ""),
        ({"role": "assistant", "content": None}, ""),
        ({"role": "assistant", "content": []}, ""),
        ({"role": "assistant", "content": ""}, ""),
        ({"role": "assistant", "content": None, "refusal": "No."}, "No."),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        (
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Moo."}],
            },
            "Moo.",
        ),
        ({"role": "user", "content": []}, ""),
        ({"role": "user", "content": ["a", {"type": "input_text", "text": "b", "detail": None}]}, "ab"),
        ({"role": "user", "content": "a", "name": None, "audio": None, "function_call": None}, "a"),
    ],
)
def test_messages_as_clients_replay_them(message: dict[str, Any], content: str) -> None:
    assert chat(messages=[*MESSAGES, message]).messages == (
        Message("user", "Hello."),
        Message(message["role"], content),
    )


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, {}),
        ({"chat_template_kwargs": None}, {}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ({"enable_thinking": True}, {"enable_thinking": True}),
        ({"thinking": False}, {"thinking": False}),
        ({"thinking": {"type": "enabled"}}, {"thinking": True, "enable_thinking": True}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        (
            {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False, "style": ["a"]}},
            {"enable_thinking": False, "style": ["a"]},
        ),
    ],
)
def test_variables_of_the_template(fields: dict[str, Any], variables: dict[str, Any]) -> None:
    assert chat(**fields).chat_template_kwargs == variables


@pytest.mark.parametrize(
    ("fields", "begins", "continues"),
    [
        ({}, True, False),
        ({"add_generation_prompt": False}, False, False),
        ({"add_generation_prompt": True, "continue_final_message": False}, True, False),
        ({"continue_final_message": True}, False, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, False, True),
    ],
)
def test_where_the_answer_begins(fields: dict[str, Any], begins: bool, continues: bool) -> None:
    request = chat(**fields)
    assert (request.add_generation_prompt, request.continue_final_message) == (begins, continues)


def test_what_is_done_with_the_prompt() -> None:
    assert not completion(add_special_tokens=False).add_special_tokens
    assert completion(truncate_prompt_tokens=2).truncate_prompt_tokens == 2
    assert chat(truncate_prompt_tokens=-1).truncate_prompt_tokens == -1
    assert chat(add_special_tokens=False) == chat()


def test_what_known_load_clients_send_is_taken() -> None:
    streamed = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    request = chat(
        **streamed,
        model="storyteller",
        max_completion_tokens=128,
        max_tokens=128,
        ignore_eos=True,
        temperature=0.0,
        stop=None,
    )
    assert request.sampling.max_tokens == 128
    assert request.sampling.ignore_eos
    request = completion(
        **streamed, temperature=0.0, best_of=1, max_tokens=8, logprobs=None, repetition_penalty=1.0
    )
    assert request.sampling.max_tokens == 8


@pytest.mark.parametrize("body_type", [StreamBody, ChatCompletionBody, CompletionBody])
def test_the_schema_for_the_documentation_describes_the_fields(
    body_type: type[StreamBody] | type[ChatCompletionBody] | type[CompletionBody],
) -> None:
    schema = body_type.model_json_schema(ref_template="#/components/schemas/{model}")
    assert schema["properties"]["temperature"]["maximum"] == 2
    assert schema["additionalProperties"] is (body_type is not StreamBody)
    assert set(schema["properties"]) == set(body_type.model_fields)
    for example in schema["examples"]:
        parse_object(body_type, example).to_request(LIMITS, "storyteller")


def test_several_prompts_are_requests_that_differ_in_prompt_and_seed() -> None:
    def requests(**fields: Any) -> list[GenerationRequest]:
        return parse_object(CompletionBody, fields).to_requests(LIMITS, "storyteller")

    assert requests(prompt="a") == requests(prompt=["a"]) == [completion()]
    assert requests(prompt=[1, 2]) == requests(prompt=[[1, 2]]) == [completion(prompt=[1, 2])]
    two = requests(prompt=["a", "b"], seed=7)
    assert [(request.prompt, request.seed) for request in two] == [("a", 7), ("b", 8)]
    assert msgspec.structs.replace(two[1], prompt="a", seed=7) == two[0] == completion(seed=7)
    ids = requests(prompt=[[1], [2, 3]], seed=2**63 - 1)
    assert [(request.prompt, request.prompt_token_ids, request.seed) for request in ids] == [
        (None, (1,), 2**63 - 1),
        (None, (2, 3), -(2**63)),
    ]
    drawn = [request.seed for request in requests(prompt=["a", "a", "a"])]
    assert drawn[0] is not None and drawn == [drawn[0], drawn[0] + 1, drawn[0] + 2]
    assert drawn != [request.seed for request in requests(prompt=["a", "a", "a"])]


def test_the_number_of_prompts_is_limited() -> None:
    most = LIMITS.max_streams_per_connection
    body = parse_object(CompletionBody, {"prompt": ["a"] * (most + 1)})
    with pytest.raises(InvalidRequest, match=f"at most {most} prompts") as refusal:
        body.to_requests(LIMITS, "storyteller")
    assert refusal.value.param == "prompt"
