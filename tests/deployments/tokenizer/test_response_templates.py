"""Outputs as models of each format write them, in any pieces, and which format a model has."""

from __future__ import annotations

import logging
import random
from itertools import groupby
from typing import Any, get_args

import pytest

from app.schema.tools import Tool
from app.settings import ModelSettings, ToolParser
from app.text.output_parser import OutputParser, load_template
from deployments.tokenizer.prompt_encoder import PromptEncoder
from deployments.tokenizer.response_templates import FORMATS, response_template, with_calls

WEATHER = Tool(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "units": {"type": "array"}},
    },
)
OSLO = '{"city": "Oslo", "days": 3}'
Parts = list[tuple[str, ...]]


def call(index: int, arguments: str = OSLO, name: str = "get_weather") -> tuple[str, ...]:
    return "call", str(index), name, arguments


THOUGHT: Parts = [("reasoning", "They want weather."), ("content", "Let me look.")]
THINKING = "<think>\nThey want weather.\n</think>\n\nLet me look.\n"

# By format: the end of the prompt, the output, its parts.
OUTPUTS: list[tuple[str, str, str, Parts]] = [
    (
        "hermes",
        "<|im_start|>user\nOslo?<|im_end|>\n<|im_start|>assistant\n",
        THINKING
        + '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>\n'
        + '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        [*THOUGHT, call(0), call(1, '{"city": "Rome"}')],
    ),
    (
        "hermes",
        "<|im_start|>assistant\n<think>\n",
        "Nothing to call here.\n</think>\n\nA < b, <tool",
        [("reasoning", "Nothing to call here."), ("content", "A < b, <tool")],
    ),
    ("hermes", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "Hello.", [("content", "Hello.")]),
    (
        "qwen3_coder",
        "<|im_start|>assistant\n",
        THINKING
        + "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        + "</function>\n</tool_call>\n<function=get_weather>\n<parameter=city>\nNew York\n</parameter>\n</function>",
        [*THOUGHT, call(0), call(1, '{"city": "New York"}')],
    ),
    (
        "glm",
        "<|user|>\nOslo?<|assistant|>\n",
        THINKING
        + "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n"
        + '<arg_value>3</arg_value>\n</tool_call>\n<tool_call>get_weather<arg_key>units</arg_key><arg_value>["C"]</arg_value>'
        + "</tool_call>",
        [*THOUGHT, call(0), call(1, '{"units": ["C"]}')],
    ),
    (
        "llama3_json",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        '{"name": "get_weather", "parameters": {"city": "Oslo", "days": 3}}',
        [call(0)],
    ),
    (
        "llama3_json",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        'Yes.<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo", "days": 3}}; '
        '{"name": "get_weather", "parameters": {}}',
        [("content", "Yes."), call(0), call(1, "{}")],
    ),
    (
        "llama3_json",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        '{"name": "Ann", "age": 7} is JSON.',
        [("content", '{"name": "Ann", "age": 7} is JSON.')],
    ),
    (
        "mistral",
        "[INST]Oslo?[/INST]",
        "[THINK]They want weather.[/THINK]Let me look."
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo", "days": 3}[TOOL_CALLS]get_weather[ARGS]{"units": ["C"]}</s>',
        [*THOUGHT, call(0), call(1, '{"units": ["C"]}')],
    ),
    (
        "mistral",
        "[INST] Oslo? [/INST]",
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}, "id": "9Ae3bDc2F"}, '
        '{"name": "other", "arguments": {}}]',
        [call(0), call(1, "{}", "other")],
    ),
    (
        "deepseek",
        "<｜User｜>Oslo?<｜Assistant｜><think>\n",
        "They want weather.\n</think>\n\nLet me look."
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Oslo", "days": 3}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>other\n```json\n{}\n```'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        [*THOUGHT, call(0), call(1, "{}", "other")],
    ),
    (
        "deepseek",
        "<｜Assistant｜></think>",
        "Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
        '{"city": "Oslo", "days": 3}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        [("content", "Let me look."), call(0)],
    ),
    (
        "kimi",
        "<|im_assistant|>assistant<|im_middle|>",
        THINKING
        + "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        + '{"city": "Oslo", "days": 3}<|tool_call_end|><|tool_call_begin|>functions.other:1<|tool_call_argument_begin|>{}'
        + "<|tool_call_end|><|tool_calls_section_end|>",
        [*THOUGHT, call(0), call(1, "{}", "other")],
    ),
    (
        "gpt_oss",
        "<|start|>user<|message|>Oslo?<|end|><|start|>assistant",
        "<|channel|>analysis<|message|>They want weather.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me look."
        "<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Oslo", "days": 3}<|call|><|start|>assistant to=functions.other<|channel|>commentary json<|message|>{}',
        [*THOUGHT, call(0), call(1, "{}", "other")],
    ),
    (
        "gpt_oss",
        "<|start|>assistant",
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hello.",
        [("reasoning", "Easy."), ("content", "Hello.")],
    ),
    (
        "think",
        "<｜Assistant｜>",
        THINKING,
        [("reasoning", "They want weather."), ("content", "Let me look.\n")],
    ),
]


def parsed(name: str, prompt: str, pieces: list[str]) -> Parts:
    parser = OutputParser(load_template(FORMATS[name], tools=True), prompt, [WEATHER])
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish(cut=False)
    joined: Parts = []
    for (kind, index, called), group in groupby(parts, key=lambda part: (part.kind, part.call, part.name)):
        text = "".join(part.text for part in group)
        joined.append((kind, text) if kind != "call" else (kind, str(index), called, text.strip()))
    return joined


@pytest.mark.parametrize(("name", "prompt", "output", "parts"), OUTPUTS, ids=lambda value: str(value)[:12])
def test_500_random_splits_give_the_same_parts(name: str, prompt: str, output: str, parts: Parts) -> None:
    draw = random.Random(output)
    assert parsed(name, prompt, [output]) == parts
    assert parsed(name, prompt, list(output)) == parts
    for _ in range(500):
        cuts = sorted(draw.sample(range(1, len(output)), min(draw.randint(1, 30), len(output) - 1)))
        bounds = zip([0, *cuts], [*cuts, len(output)], strict=True)
        assert parsed(name, prompt, [output[begin:end] for begin, end in bounds]) == parts


def test_every_format_is_tested_and_can_be_configured() -> None:
    assert {name for name, *_ in OUTPUTS} == FORMATS.keys()
    assert {*get_args(ToolParser)} == {*FORMATS, "none"}


@pytest.mark.parametrize(
    ("chat_template", "name", "fields"),
    [
        (
            "{{ tools }}<tool_call>{{ '<think>' }}</think>",
            "hermes",
            {"content", "reasoning_content", "tool_calls"},
        ),
        ("{{ tools }}<tool_call>", "hermes", {"content", "tool_calls"}),
        ("{{ tools }}<tool_call>\n<function=", "qwen3_coder", {"content", "tool_calls"}),
        ("{{ tools }}<tool_call><arg_key>", "glm", {"content", "tool_calls"}),
        ('{{ tools }}<|start_header_id|>"parameters"', "llama3_json", {"content", "tool_calls"}),
        ("{{ tools }}[TOOL_CALLS]", "mistral", {"content", "tool_calls"}),
        (
            "{{ tools }}<｜tool▁call▁begin｜><think>",
            "deepseek",
            {"content", "reasoning_content", "tool_calls"},
        ),
        ("{{ tools }}<|tool_call_begin|>", "kimi", {"content", "tool_calls"}),
        ("{{ tools }}<|channel|>", "gpt_oss", {"content", "reasoning_content", "tool_calls"}),
        ("<|im_start|>{{ x.split('</think>') }}<think>", "think", {"content", "reasoning_content"}),
    ],
)
def test_a_chat_template_shows_the_format(chat_template: str, name: str, fields: set[str]) -> None:
    chosen = response_template(None, None, chat_template, {})
    assert chosen is not None
    assert chosen["fields"].keys() == fields
    assert {**chosen, "fields": None} == {**FORMATS[name], "fields": None}


def test_marks_that_only_the_vocabulary_has() -> None:
    chosen = response_template(None, None, "{{ tools }}<tool_call>", {"<think>": 7})
    assert chosen == FORMATS["hermes"]


@pytest.mark.parametrize("chat_template", [None, "{{ messages }}", "<tool_call> but it knows no tool"])
def test_a_model_without_a_format(chat_template: str | None) -> None:
    assert response_template(None, None, chat_template, {}) is None


def test_what_is_configured_goes_first() -> None:
    assert response_template("glm", {"no": "template"}, "{{ tools }}<tool_call>", {}) == FORMATS["glm"]
    assert response_template("none", None, "{{ tools }}<tool_call>", {}) is None


def test_a_model_may_bring_its_own(caplog: pytest.LogCaptureFixture) -> None:
    own: dict[str, Any] = {"start_anchor": "<bot>", "fields": {"content": {}}}
    assert response_template(None, own, "{{ tools }}<tool_call>", {"<think>": 1}) is own
    with caplog.at_level(logging.WARNING):
        wrong = {"fields": {"content": {"open_pattern": "("}}}
        assert response_template(None, wrong, "{{ tools }}<tool_call>", {"<think>": 1}) == FORMATS["hermes"]
    assert "can't be used" in caplog.text


def test_the_format_of_a_tokenizer() -> None:
    settings = ModelSettings(name="m")
    card = PromptEncoder(settings).card
    assert card.calls_tools and not card.reasons
    card = PromptEncoder(settings.model_copy(update={"tool_parser": "hermes"})).card
    assert card.response_template == FORMATS["hermes"]
    assert card.calls_tools and card.reasons
    assert PromptEncoder(settings.model_copy(update={"tool_parser": "none"})).card.response_template is None


def test_calls_are_added_to_a_format_without_them() -> None:
    assert with_calls(None)["fields"].keys() == {"content", "tool_calls"}
    assert with_calls(FORMATS["think"])["fields"] == FORMATS["hermes"]["fields"]
