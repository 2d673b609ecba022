"""Bodies that must be refused, for each dialect: what is sent, the field that is named, words of the message."""

from __future__ import annotations

from typing import Any, NamedTuple


class Refused(NamedTuple):
    name: str
    body: Any
    param: str | None
    message: str


def _with(prompt: dict[str, Any], cases: list[tuple[str, dict[str, Any], str | None, str]]) -> list[Refused]:
    return [Refused(name, prompt | fields, param, message) for name, fields, param, message in cases]


MESSAGES = [{"role": "user", "content": "Hello."}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def _answered(calls: Any) -> dict[str, Any]:
    """A chat in which the assistant has made these calls."""
    return {"messages": [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": calls}]}


def _answer(call: Any) -> dict[str, Any]:
    return _answered([call])


def _offered(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": function}]}


def _allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def _nested(levels: int) -> dict[str, Any]:
    return {} if levels == 0 else {"items": _nested(levels - 1)}


# What every dialect refuses, in fields that all of them have.
_SHARED: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("model_number", {"model": 5}, "model", "must be a string"),
    ("model_empty", {"model": ""}, "model", "must not be empty"),
    ("model_long", {"model": "m" * 129}, "model", "at most 128 characters"),
    ("temperature_string", {"temperature": "1"}, "temperature", "must be a number"),
    ("temperature_bool", {"temperature": True}, "temperature", "must be a number"),
    ("temperature_high", {"temperature": 2.5}, "temperature", "at most 2, not 2.5"),
    ("temperature_low", {"temperature": -0.1}, "temperature", "at least 0, not -0.1"),
    ("temperature_infinite", {"temperature": float("inf")}, "temperature", "must be a finite number"),
    ("temperature_nan", {"temperature": float("nan")}, "temperature", "must be a finite number"),
    ("top_p_low", {"top_p": -0.1}, "top_p", "at least 0"),
    ("top_p_high", {"top_p": 1.1}, "top_p", "at most 1"),
    ("top_k_fraction", {"top_k": 1.5}, "top_k", "must be an integer"),
    ("top_k_low", {"top_k": -2}, "top_k", "at least -1"),
    ("min_p_high", {"min_p": 1.01}, "min_p", "at most 1"),
    ("seed_string", {"seed": "7"}, "seed", "must be an integer"),
    ("seed_high", {"seed": 2**64}, "seed", "at most 18446744073709551615"),
    ("seed_low", {"seed": -(2**63) - 1}, "seed", "at least -9223372036854775808"),
    ("presence_penalty_high", {"presence_penalty": 2.1}, "presence_penalty", "at most 2"),
    ("frequency_penalty_low", {"frequency_penalty": -2.1}, "frequency_penalty", "at least -2"),
    ("repetition_penalty_zero", {"repetition_penalty": 0}, "repetition_penalty", "at least 0.01"),
    ("repetition_penalty_high", {"repetition_penalty": 11}, "repetition_penalty", "at most 10"),
    ("logit_bias_list", {"logit_bias": [1]}, "logit_bias", "must be an object"),
    ("logit_bias_key", {"logit_bias": {"1": 1, "a": 1}}, "logit_bias.a", "is not a token id"),
    ("logit_bias_padded_key", {"logit_bias": {"01": 1}}, "logit_bias.01", "is not a token id"),
    ("logit_bias_negative_key", {"logit_bias": {"-1": 1}}, "logit_bias.-1", "is not a token id"),
    ("logit_bias_high", {"logit_bias": {"1": 101}}, "logit_bias.1", "at most 100"),
    ("logit_bias_null", {"logit_bias": {"1": None}}, "logit_bias.1", "must be a number"),
    (
        "logit_bias_long",
        {"logit_bias": {str(i): 1 for i in range(1025)}},
        "logit_bias",
        "at most 1024 entries",
    ),
    ("stop_number", {"stop": 5}, "stop", "must be a string or a list of strings"),
    ("stop_entry_number", {"stop": ["a", "", 5]}, "stop[2]", "must be a string"),
    ("stop_long", {"stop": "a" * 1025}, "stop", "at most 1024 characters"),
    ("stop_many", {"stop": ["a"] * 257}, "stop", "at most 256 entries"),
    ("stop_token_ids_single", {"stop_token_ids": 7}, "stop_token_ids", "must be a list"),
    ("stop_token_ids_negative", {"stop_token_ids": [1, -1]}, "stop_token_ids[1]", "at least 0"),
    ("stop_token_ids_many", {"stop_token_ids": [1] * 65}, "stop_token_ids", "at most 64 entries"),
    ("n_zero", {"n": 0}, "n", "at least 1"),
    ("n_high", {"n": 33}, "n", "at most 32"),
    ("n_bool", {"n": True}, "n", "must be an integer"),
    ("max_tokens_zero", {"max_tokens": 0}, "max_tokens", "at least 1"),
    ("max_tokens_string", {"max_tokens": "16"}, "max_tokens", "must be an integer"),
    ("min_tokens_negative", {"min_tokens": -1}, "min_tokens", "at least 0"),
    (
        "min_over_max",
        {"max_tokens": 4, "min_tokens": 5},
        "min_tokens",
        "must not be more than max_tokens (4)",
    ),
    ("ignore_eos_number", {"ignore_eos": 1}, "ignore_eos", "must be true or false"),
    ("return_token_ids_string", {"return_token_ids": "yes"}, "return_token_ids", "must be true or false"),
    ("stream_string", {"stream": "true"}, "stream", "must be true or false"),
    ("timeout_zero", {"timeout_s": 0}, "timeout_s", "greater than 0"),
    ("timeout_high", {"timeout_s": 601}, "timeout_s", "at most 600"),
    ("on_disconnect", {"on_disconnect": "wait"}, "on_disconnect", "must be one of cancel, grace or continue"),
    ("format_string", {"response_format": "json"}, "response_format", "must be an object"),
    ("format_untyped", {"response_format": {}}, "response_format.type", "is required"),
    (
        "format_unknown",
        {"response_format": {"type": "xml"}},
        "response_format.type",
        "must be one of text, json_object, json_schema, regex, grammar",
    ),
    (
        "format_schema_missing",
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format.json_schema.schema",
        "is required",
    ),
    (
        "format_pattern_empty",
        {"response_format": {"type": "regex", "pattern": ""}},
        "response_format.pattern",
        "must not be empty",
    ),
    (
        "format_grammar_missing",
        {"response_format": {"type": "grammar"}},
        "response_format.grammar",
        "is required",
    ),
    (
        "format_ignore_eos",
        {"response_format": {"type": "json_object"}, "ignore_eos": True},
        "ignore_eos",
        "can't go with response_format",
    ),
    (
        "format_min_tokens",
        {"response_format": {"type": "regex", "pattern": "a+"}, "min_tokens": 1},
        "min_tokens",
        "can't go with response_format",
    ),
]

# What both dialects refuse in a chat.
_CHAT: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("messages_empty", {"messages": []}, "messages", "must not be empty"),
    ("messages_string", {"messages": "Hello."}, "messages", "must be a list"),
    ("messages_many", {"messages": MESSAGES * 1025}, "messages", "at most 1024 entries"),
    ("message_string", {"messages": ["Hello."]}, "messages[0]", "must be an object"),
    ("message_empty", {"messages": [{}]}, "messages[0].role", "is required"),
    ("no_content", {"messages": [*MESSAGES, {"role": "user"}]}, "messages[1].content", "is required"),
    (
        "content_number",
        {"messages": [{"role": "user", "content": 5}]},
        "messages[0].content",
        "must be a string",
    ),
    (
        "content_null",
        {"messages": [{"role": "user", "content": None}]},
        "messages[0].content",
        "must be a string",
    ),
    (
        "image_part",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
        "only parts of type text",
    ),
    (
        "part_without_text",
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "is required",
    ),
    ("role", {"messages": [{"role": "critic", "content": "5"}]}, "messages[0].role", "must be one of system"),
    (
        "calls_of_a_user",
        {"messages": [*MESSAGES, {"role": "user", "content": "a", "tool_calls": [CALL]}]},
        "messages[1].tool_calls",
        "only allowed in a message of the role assistant",
    ),
    ("call_string", _answer("f"), "messages[1].tool_calls[0]", "must be an object"),
    ("calls_object", _answered({"a": 1}), "messages[1].tool_calls", "must be a list"),
    ("calls_many", _answered([CALL] * 257), "messages[1].tool_calls", "at most 256 entries"),
    ("call_empty", _answer({}), "messages[1].tool_calls[0].function", "is required"),
    (
        "call_custom",
        _answer(CALL | {"type": "custom"}),
        "messages[1].tool_calls[0].type",
        "must be function",
    ),
    ("call_id", _answer(CALL | {"id": 5}), "messages[1].tool_calls[0].id", "must be a string"),
    (
        "call_unnamed",
        _answer({"id": "1", "function": {"arguments": "{}"}}),
        "messages[1].tool_calls[0].function.name",
        "is required",
    ),
    (
        "call_arguments",
        _answer({"id": "1", "function": {"name": "f", "arguments": 5}}),
        "messages[1].tool_calls[0].function.arguments",
        "must be a string",
    ),
    ("tools_object", {"tools": {}}, "tools", "must be a list"),
    ("tools_many", {"tools": [TOOL] * 513}, "tools", "at most 512 entries"),
    ("tool_string", {"tools": ["f"]}, "tools[0]", "must be an object"),
    ("tool_without_function", {"tools": [{"type": "function"}]}, "tools[0].function", "is required"),
    ("tool_type", {"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type", "must be function"),
    ("tool_unnamed", _offered(description="a"), "tools[0].function.name", "is required"),
    ("tool_name", _offered(name="a b"), "tools[0].function.name", "must be 1 to 64 letters, digits, _ and -"),
    ("tool_name_long", _offered(name="a" * 65), "tools[0].function.name", "must be 1 to 64 letters"),
    ("tool_name_line", _offered(name="a\n"), "tools[0].function.name", "must be 1 to 64 letters"),
    ("tool_twice", {"tools": [TOOL, TOOL]}, "tools[1].function.name", "must differ from the names"),
    ("parameters_list", _offered(name="f", parameters=[]), "tools[0].function.parameters", "be an object"),
    (
        "parameters_deep",
        _offered(name="f", parameters=_nested(65)),
        "tools[0].function.parameters",
        "at most 64 levels",
    ),
    (
        "parameters_long",
        _offered(name="f", parameters={"a": "b" * 65_536}),
        "tools[0].function.parameters",
        "at most 65536 characters",
    ),
    (
        "parameters_number",
        _offered(name="f", parameters={"maximum": 2**70}),
        "tools[0].function.parameters",
        "a number that is too large",
    ),
    ("strict_string", _offered(name="f", strict="yes"), "tools[0].function.strict", "must be true or false"),
    (
        "choice_word",
        {"tools": [TOOL], "tool_choice": "any"},
        "tool_choice",
        "must be one of none, auto or required",
    ),
    ("choice_number", {"tools": [TOOL], "tool_choice": 5}, "tool_choice", "must be one of none"),
    ("choice_alone", {"tool_choice": "required"}, "tool_choice", "is only allowed with tools"),
    ("choice_empty", {"tools": [TOOL], "tool_choice": {}}, "tool_choice.function", "is required"),
    (
        "choice_type",
        {"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "f"}}},
        "tool_choice.type",
        "must be function",
    ),
    (
        "choice_unnamed",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {}}},
        "tool_choice.function.name",
        "is required",
    ),
    (
        "choice_of_another",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice.function.name",
        "must be the name of one of the tools",
    ),
    (
        "allowed_none",
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}},
        "tool_choice.allowed_tools.tools",
        "must not be empty",
    ),
    (
        "allowed_mode",
        {"tools": [TOOL], "tool_choice": _allowed("f", mode="none")},
        "tool_choice.allowed_tools.mode",
        "must be one of auto or required",
    ),
    (
        "allowed_other",
        {"tools": [TOOL], "tool_choice": _allowed("f", "g")},
        "tool_choice.allowed_tools.tools[1].function.name",
        "must be the name of one of the tools",
    ),
    ("parallel", {"parallel_tool_calls": 1}, "parallel_tool_calls", "must be true or false"),
    ("include_reasoning", {"include_reasoning": "no"}, "include_reasoning", "must be true or false"),
    (
        "both_beginnings",
        {"continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
        "only allowed without add_generation_prompt",
    ),
    (
        "huge_variable",
        {"chat_template_kwargs": {"a": [2**70]}},
        "chat_template_kwargs",
        "a number that is too large",
    ),
    ("truncate", {"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "-1 or at least 1"),
]

NATIVE: list[Refused] = [
    Refused("list", [1], None, "must be a JSON object"),
    Refused("nothing", {}, "prompt", "One of prompt, messages and prompt_token_ids is required"),
    Refused(
        "two_prompts", {"prompt": "a", "messages": MESSAGES}, "messages", "Only one of prompt and messages"
    ),
    Refused("prompt_number", {"prompt": 5}, "prompt", "must be a string"),
    Refused("prompt_empty", {"prompt": ""}, "prompt", "must not be empty"),
    Refused("prompt_surrogate", {"prompt": "\ud800"}, "prompt", "must be valid Unicode"),
    Refused("ids_empty", {"prompt_token_ids": []}, "prompt_token_ids", "must not be empty"),
    Refused("ids_negative", {"prompt_token_ids": [1, -2]}, "prompt_token_ids[1]", "at least 0, not -2"),
    Refused("ids_strings", {"prompt_token_ids": ["a"]}, "prompt_token_ids[0]", "must be an integer"),
    Refused("unknown", {"prompt": "a", "temprature": 1}, "temprature", "is not a field of this request"),
    Refused("unknown_null", {"prompt": "a", "best": None}, "best", "is not a field of this request"),
    Refused(
        "unknown_in_message",
        {"messages": [{"role": "user", "content": "a", "weight": 1}]},
        "messages[0].weight",
        "is not a field of this request",
    ),
    Refused(
        "unknown_in_call",
        _answer(CALL | {"index": 0}),
        "messages[1].tool_calls[0].index",
        "is not a field of this request",
    ),
    Refused(
        "unknown_in_function",
        {"messages": MESSAGES, "tools": [{"function": {"name": "f", "returns": {}}}]},
        "tools[0].function.returns",
        "is not a field of this request",
    ),
    Refused(
        "arguments_object",
        _answer({"id": "1", "function": {"name": "f", "arguments": {}}}),
        "messages[1].tool_calls[0].function.arguments",
        "must be a string",
    ),
    Refused(
        "reasoning_of_a_user",
        {"messages": [{"role": "user", "content": "a", "reasoning": "b"}]},
        "messages[0].reasoning",
        "only allowed in a message of the role assistant",
    ),
    Refused(
        "call_id_of_a_user",
        {"messages": [{"role": "user", "content": "a", "tool_call_id": "b"}]},
        "messages[0].tool_call_id",
        "only allowed in a message of the role tool",
    ),
    Refused(
        "function", {"messages": [{"role": "function", "content": "a"}]}, "messages[0].role", "must be one of"
    ),
    *(
        Refused(f"{name}_of_a_prompt", {"prompt": "a", name: value}, name, "is only allowed with messages")
        for name, value in (
            ("tools", [TOOL]),
            ("tool_choice", "required"),
            ("chat_template_kwargs", {"a": 1}),
            ("continue_final_message", True),
        )
    ),
    Refused("detach", {"prompt": "a", "detach": "yes"}, "detach", "must be true or false"),
    Refused("logprobs_high", {"prompt": "a", "logprobs": 21}, "logprobs", "at most 20"),
    Refused("logprobs_bool", {"prompt": "a", "logprobs": True}, "logprobs", "must be an integer"),
    *_with({"prompt": "a"}, _SHARED),
    *_with({"messages": MESSAGES}, _CHAT),
]

CHAT: list[Refused] = [
    Refused("nothing", {}, "messages", "is required"),
    Refused(
        "stream_options",
        {"messages": MESSAGES, "stream_options": {}},
        "stream_options",
        "when stream is true",
    ),
    Refused(
        "include_usage",
        {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": 1}},
        "stream_options.include_usage",
        "must be true or false",
    ),
    Refused("logprobs_number", {"messages": MESSAGES, "logprobs": 3}, "logprobs", "must be true or false"),
    Refused("top_alone", {"messages": MESSAGES, "top_logprobs": 3}, "top_logprobs", "when logprobs is true"),
    Refused(
        "top_high", {"messages": MESSAGES, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"
    ),
    Refused(
        "limits_differ",
        {"messages": MESSAGES, "max_tokens": 1, "max_completion_tokens": 2},
        "max_tokens",
        "differ; send one",
    ),
    Refused(
        "functions", {"messages": MESSAGES, "functions": [{}]}, "functions", "not supported; send tools."
    ),
    Refused(
        "function_call",
        {"messages": MESSAGES, "function_call": {"name": "f"}},
        "function_call",
        "not supported; send tool_choice.",
    ),
    Refused(
        "audio_in_a_message",
        {"messages": [{"role": "assistant", "audio": {"id": "a"}}]},
        "messages[0].audio",
        "is not supported yet",
    ),
    Refused(
        "reasoning_content",
        {"messages": [{"role": "assistant", "content": "a", "reasoning_content": []}]},
        "messages[0].reasoning_content",
        "must be a string",
    ),
    Refused(
        "audio", {"messages": MESSAGES, "modalities": ["text", "audio"]}, "modalities", "is not supported yet"
    ),
    Refused(
        "thinking", {"messages": MESSAGES, "thinking": {"type": "deep"}}, "thinking.type", "must be one of"
    ),
    *(
        Refused(name, {"messages": MESSAGES, name: value}, name, f"{name} is not supported yet.")
        for name, value in (
            ("add_special_tokens", True),
            ("skip_special_tokens", False),
            ("moderation", {"model": "omni-moderation-latest"}),
            ("priority", 1),
            ("documents", [{"text": "a"}]),
            ("grammar", "root ::= 'a'"),
        )
    ),
    Refused(
        "two_formats",
        {
            "messages": MESSAGES,
            "response_format": {"type": "json_object"},
            "structured_outputs": {"regex": "a"},
        },
        "structured_outputs",
        "Only one of",
    ),
    Refused(
        "options_of_a_grammar",
        {"messages": MESSAGES, "structured_outputs": {"grammar": 'start[temperature=0]: "a"'}},
        "structured_outputs",
        "the option temperature",
    ),
    Refused(
        "guidance_of_a_grammar",
        {
            "messages": MESSAGES,
            "response_format": {"type": "grammar", "grammar": 'start: %json {"x-guidance": {}}'},
        },
        "response_format",
        "the option x-guidance",
    ),
    Refused(
        "long_choices",
        {"messages": MESSAGES, "structured_outputs": {"choice": ["a" * 1000] * 100}},
        "structured_outputs.choice",
        "in all",
    ),
    Refused(
        "structured_outputs_unknown",
        {"messages": MESSAGES, "structured_outputs": {"regex": "a", "whitespace_pattern": " "}},
        "structured_outputs.whitespace_pattern",
        "is not a field",
    ),
    Refused("guided", {"messages": MESSAGES, "guided_json": {}}, "guided_json", "is not supported yet"),
    *_with({"messages": MESSAGES}, _SHARED),
    *_with({"messages": MESSAGES}, _CHAT),
]

COMPLETION: list[Refused] = [
    Refused("nothing", {}, "prompt", "is required"),
    Refused("prompt_number", {"prompt": 5}, "prompt", "must be a string"),
    Refused("prompt_empty", {"prompt": ""}, "prompt", "must not be empty"),
    Refused("no_prompts", {"prompt": []}, "prompt", "must not be empty"),
    Refused("empty_among_prompts", {"prompt": ["a", ""]}, "prompt[1]", "must not be empty"),
    Refused("no_ids_in_a_prompt", {"prompt": [[1], []]}, "prompt[1]", "must not be empty"),
    Refused("mixed_prompts", {"prompt": ["a", [1]]}, "prompt[1]", "must be a string"),
    Refused("other_prompts", {"prompt": [[1], "a"]}, "prompt[1]", "must be a list"),
    Refused("id_in_a_prompt", {"prompt": [[1], [-1]]}, "prompt[1][0]", "must be at least 0"),
    Refused("mixed_ids", {"prompt": [1, "a"]}, "prompt[1]", "must be an integer"),
    Refused("echo", {"prompt": "a", "echo": True, "logprobs": 1}, "echo", "not supported with logprobs"),
    Refused(
        "echo_of_a_part",
        {"prompt": "a", "echo": True, "truncate_prompt_tokens": 1},
        "echo",
        "truncate_prompt_tokens",
    ),
    Refused("echo_alone", {"prompt": "a", "echo": True, "max_tokens": 0}, "max_tokens", "-1 or at least 1"),
    Refused("suffix", {"prompt": "a", "suffix": "z"}, "suffix", "is not supported yet"),
    Refused("best_of", {"prompt": "a", "best_of": 2}, "best_of", "when it equals n"),
    Refused("logprobs_bool", {"prompt": "a", "logprobs": True}, "logprobs", "must be an integer"),
    Refused("stream_options", {"prompt": "a", "stream_options": {}}, "stream_options", "when stream is true"),
    *_with({"prompt": "a"}, _SHARED),
]
