"""How models write reasoning and tool calls: the formats that are built in, and which of them a model has.

A format is a `response_template` of transformers. Those of models whose tokenizer_config.json has one of its own go first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.ports import CALLS_FIELD, REASONING_FIELDS

if TYPE_CHECKING:
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

logger = logging.getLogger(__name__)

# Where the answer of the assistant begins in the prompts of known chat templates.
_ANSWER = (
    r"<\|im_start\|>assistant\n?|<\|start_header_id\|>assistant<\|end_header_id\|>\s*|<\|assistant\|>\n?|<｜Assistant｜>"
    r"|<\|im_assistant\|>assistant<\|im_middle\|>|<\|start\|>assistant|\[/INST\]"
)
_FUNCTION = {"name": "{name}", "arguments": "{content}"}


def _template(
    *, thinks: tuple[str, str] = ("<think>", "</think>"), calls_end: str | None = None, **call: Any
) -> dict[str, Any]:
    """A template with reasoning between two marks, tool calls, and content around them.

    `calls_end` comes after the last call. An option at the end of `close_pattern` would not be found in every split.
    """
    content = {} if calls_end is None else {"close": calls_end}
    fields: dict[str, Any] = {
        "reasoning_content": {"open": thinks[0], "close": thinks[1]},
        "content": content,
    }
    if call:
        function = call.pop("function", _FUNCTION)
        transform = {"type": "function", "function": function}
        fields[CALLS_FIELD] = {"content": "json", "repeats": True, "transform": transform} | call
    return {"start_anchor_pattern": _ANSWER, "fields": fields}


FORMATS: dict[str, dict[str, Any]] = {
    # Qwen 2.5 and 3, Hermes and many others.
    "hermes": _template(open="<tool_call>", close="</tool_call>", function="{content}"),
    # Qwen3-Coder, Qwen 3.5.
    "qwen3_coder": _template(
        open_pattern=r"(?:<tool_call>\s*)?<function=(?P<name>[^>\n]+)>",
        close="</function>",
        calls_end="</tool_call>",
        content="xml-inline",
        content_args={"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>"},
    ),
    # GLM 4.5 and later.
    "glm": _template(
        open_pattern=r"<tool_call>\s*(?P<name>[^\s<{]+)\s*(?=<arg_key>|</tool_call>)",
        close="</tool_call>",
        content="xml-inline",
        content_args={
            "tag_pattern": r"<arg_key>\s*(?P<key>.*?)\s*</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>"
        },
    ),
    # Llama 3.1 and later: nothing but JSON.
    "llama3_json": _template(
        open_pattern=r"\A\s*(?=\{\s*\"(?:name|parameters|type|function)\")|<\|python_tag\|>\s*(?=\{)",
        close_pattern=r"<\|eom_id\|>|<\|eot_id\|>",
        function="{content}",
    ),
    "mistral": _template(
        thinks=("[THINK]", "[/THINK]"),
        open_pattern=(
            r"\[TOOL_CALLS\]\s*(?:(?P<name>[^\s\[\]{}()<>]+)\s*(?:\[CALL_ID\]\s*[\w-]+\s*)?(?:\[ARGS\])?\s*(?=\{)|(?=\[))"
        ),
        close_pattern=r"(?=\[TOOL_CALLS\])|</s>",
    ),
    # DeepSeek V3, R1 (JSON in a code block) and V3.1.
    "deepseek": _template(
        open_pattern=(
            r"(?:<｜tool▁calls▁begin｜>)?\s*<｜tool▁call▁begin｜>"
            r"(?:function<｜tool▁sep｜>(?P<name>[^\n]+)\n```json\n|(?P<name>[^\n<]+)<｜tool▁sep｜>(?=\s*\{))"
        ),
        close_pattern=r"\s*(?:```)?\s*<｜tool▁call▁end｜>",
        calls_end="<｜tool▁calls▁end｜>",
    ),
    "kimi": _template(
        thinks=("<think>", "</think>"),
        open_pattern=(
            r"(?:<\|tool_calls_section_begin\|>)?\s*<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[^\s:<]+)(?::\d+)?\s*"
            r"<\|tool_call_argument_begin\|>"
        ),
        close_pattern=r"\s*<\|tool_call_end\|>",
        calls_end="<|tool_calls_section_end|>",
    ),
    # gpt-oss: every part says its channel.
    "gpt_oss": {
        "start_anchor_pattern": _ANSWER,
        "fields": {
            "reasoning_content": {"open_pattern": r"<\|channel\|>analysis<\|message\|>", "close": "<|end|>"},
            CALLS_FIELD: {
                "open_pattern": (
                    r"(?:<\|channel\|>(?:commentary|analysis)\s+to=functions\.(?P<name>[\w.-]+)"
                    r"|\s*to=functions\.(?P<name>[\w.-]+)<\|channel\|>(?:commentary|analysis))"
                    r"\s*(?:<\|constrain\|>)?\s*(?:json)?\s*<\|message\|>"
                ),
                "close": ["<|call|>", "<|end|>"],
                "content": "json",
                "repeats": True,
                "transform": {"type": "function", "function": _FUNCTION},
            },
            "content": {
                "open_pattern": r"<\|channel\|>(?:final|commentary)\s*(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>",
                "close": ["<|end|>", "<|return|>"],
            },
        },
    },
    # Reasoning only.
    "think": _template(),
}

TEXT_FORMAT = "hermes"
"""How a model is told to call tools if its chat template says nothing of them."""

# What a chat template of each format has. The first that fits counts.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gpt_oss", ("<|channel|>",)),
    ("deepseek", ("<｜tool▁call▁begin｜>",)),
    ("kimi", ("<|tool_call_begin|>",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("qwen3_coder", ("<function=",)),
    ("glm", ("<arg_key>",)),
    ("hermes", ("<tool_call>",)),
    ("llama3_json", ("<|start_header_id|>", '"parameters"')),
    ("think", ("</think>",)),
)


def template_of(tokenizer: TokenizersBackend, name: str | None) -> dict[str, Any] | None:
    """The `response_template` of the model with this tokenizer; see `response_template`."""
    written = tokenizer.chat_template
    if isinstance(written, dict):
        written = "\n".join(written.values())
    return response_template(name, tokenizer.response_template, written, tokenizer.get_vocab())


def response_template(
    name: str | None, own: Any, chat_template: str | None, vocabulary: Mapping[str, int]
) -> dict[str, Any] | None:
    """The `response_template` of a model, None if it has none.

    `name`: the format that is configured; `own`: what the model's tokenizer_config.json has. A built-in format that the model's
    chat template shows has reasoning and tool calls only as far as the model has them.
    """
    if chat_template is None or name is not None:
        return FORMATS.get(name or "")
    if own is not None and (template := _valid(own)) is not None:
        return template
    found = next((name for name, signs in _SIGNS if all(sign in chat_template for sign in signs)), None)
    if found is None:
        return None
    fields = dict(FORMATS[found]["fields"])
    if "tools" not in chat_template:
        fields.pop(CALLS_FIELD, None)
    opening = fields["reasoning_content"].get("open")
    if opening is not None and opening not in chat_template and opening not in vocabulary:
        del fields["reasoning_content"]
    return FORMATS[found] | {"fields": fields} if fields.keys() & {CALLS_FIELD, *REASONING_FIELDS} else None


def with_calls(template: dict[str, Any] | None) -> dict[str, Any]:
    """`template` with the calls of a model that is told of tools by text. What it has beside calls stays."""
    written = FORMATS[TEXT_FORMAT]
    if template is None:
        fields = {name: field for name, field in written["fields"].items() if name not in REASONING_FIELDS}
        return written | {"fields": fields}
    return template | {"fields": template["fields"] | {CALLS_FIELD: written["fields"][CALLS_FIELD]}}


def _valid(written: Any) -> dict[str, Any] | None:
    from transformers.utils.chat_parsing.response_templates import load_response_template

    try:
        load_response_template(written)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        logger.warning("the model's response_template can't be used: %s", error)
        return None
    template: dict[str, Any] = written
    return template
