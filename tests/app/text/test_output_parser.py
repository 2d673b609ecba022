"""What a template finds in an output, and that pieces may be cut anywhere."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from app.schema.tools import Tool
from app.text.output_parser import OutputParser, Part, load_template

TEMPLATE: dict[str, Any] = {
    "start_anchor": "<bot>",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open": "<call>",
            "close": "</call>",
            "content": "json",
            "repeats": True,
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {},
    },
}
ADD = Tool(name="add", parameters={"properties": {"a": {"type": "integer"}, "note": {"type": "string"}}})


def with_calls(**field: Any) -> dict[str, Any]:
    """A template whose calls are written in another way."""
    calls = {"content": "json", "repeats": True} | field
    return {**TEMPLATE, "fields": {**TEMPLATE["fields"], "tool_calls": calls}}


def parsed(
    output: str,
    *,
    template: dict[str, Any] = TEMPLATE,
    prefix: str = "<bot>",
    tools: bool = True,
    cut: bool = False,
    pieces: int = 1,
) -> list[tuple[str, ...]]:
    """The parts of an output that comes in pieces of so many characters, with adjacent ones of a kind joined."""
    parser = OutputParser(load_template(template, tools=tools), prefix, [ADD] if tools else [])
    parts: list[Part] = []
    for begin in range(0, len(output), pieces):
        parts += parser.push(output[begin : begin + pieces])
    parts += parser.finish(cut=cut)
    joined: list[tuple[str, ...]] = []
    for (kind, call, name), group in groupby(parts, key=lambda part: (part.kind, part.call, part.name)):
        text = "".join(part.text for part in group)
        joined.append((kind, text) if kind != "call" else (kind, str(call), name, text))
    return joined


CALL = '<call>{"name": "add", "arguments": {"a": 1}}</call>'
CASES: list[tuple[str, list[tuple[str, ...]]]] = [
    ("Hello, world.", [("content", "Hello, world.")]),
    ("  kept as it is \n", [("content", "  kept as it is \n")]),
    ("a < b <thin> <cal", [("content", "a < b <thin> <cal")]),
    ("<think>\nWell.\n</think>\n\nYes. ", [("reasoning", "Well."), ("content", "Yes. ")]),
    ("<think></think>Yes", [("content", "Yes")]),
    ("<think>Well. ", [("reasoning", "Well. ")]),
    (CALL, [("call", "0", "add", '{"a": 1}')]),
    (f"<think>1</think>\n\nSure.\n{CALL}\n{CALL}", [
        ("reasoning", "1"), ("content", "Sure."), ("call", "0", "add", '{"a": 1}'), ("call", "1", "add", '{"a": 1}')
    ]),
    (f"Sure.\n{CALL}\n\nDone.", [("content", "Sure."), ("call", "0", "add", '{"a": 1}'), ("content", "\n\nDone.")]),
    ('<call>{"arguments": {"a": "}\\"]"}, "name": "add"}</call>', [("call", "0", "add", '{"a": "}\\"]"}')]),
    ('<call>\n{"name": "add", "parameters": {}}\n</call>', [("call", "0", "add", "{}")]),
    ('<call>{"name": "add"}</call>', [("call", "0", "add", "{}")]),
    ('<call>{"name": "add", "arguments": null}</call>', [("call", "0", "add", "{}")]),
    ('<call>{"name": "add", "arguments": "{\\"a\\": 1}"}</call>', [("call", "0", "add", '{"a": 1}')]),
    ('<call>{"id": 7, "x": {"name": "b"}, "name": "a\\u00e9", "arguments": {}}</call>', [("call", "0", "aé", "{}")]),
    ('<call>[{"name": "a", "arguments": {"b": [1]}}, {"name": "c", "arguments": {}}]</call>', [
        ("call", "0", "a", '{"b": [1]}'), ("call", "1", "c", "{}")
    ]),
    ('<call>{"name": "a\\ud800", "arguments": "\\udc00"}</call>', [("call", "0", "a?", "?")]),
    ('<call>{"name": "a", "parameters": {}, "arguments": {"a": 1}}</call>', [("call", "0", "a", "{}")]),
    ("<call>nonsense</call> more", [("content", "<call>nonsense</call> more")]),
    ('<call>{"arguments": {}}</call>', [("content", '<call>{"arguments": {}}</call>')]),
]  # fmt: skip


@pytest.mark.parametrize(("output", "parts"), CASES)
@pytest.mark.parametrize("pieces", [1, 2, 5, 1000])
def test_parts(output: str, parts: list[tuple[str, ...]], pieces: int) -> None:
    assert parsed(output, pieces=pieces) == parts


def test_an_opening_in_the_prompt_counts() -> None:
    assert parsed("Well.</think>Yes", prefix="<bot>a</think><bot><think>\n") == [
        ("reasoning", "Well."),
        ("content", "Yes"),
    ]
    assert parsed("\n\nYes", prefix="<bot><think>\n\n</think>") == [("content", "Yes")]


@pytest.mark.parametrize(
    ("prefix", "output", "parts"),
    [
        (f"<bot>{CALL}", CALL, [("call", "0", "add", '{"a": 1}')]),
        ('<bot><call>{"name": "add", "arguments": {"a"', ": 1}}</call>" + CALL, [
            ("call", "0", "add", ": 1}"), ("call", "1", "add", '{"a": 1}')
        ]),
        ("<bot><call>", CALL.removeprefix("<call>"), [("call", "0", "add", '{"a": 1}')]),
    ],
)  # fmt: skip
def test_calls_in_the_prompt_are_none_of_the_output(
    prefix: str, output: str, parts: list[tuple[str, ...]]
) -> None:
    assert parsed(output, prefix=prefix) == parts


def test_a_name_of_spaces_is_none() -> None:
    template = with_calls(
        open_pattern=r"<call>(?P<name>[^<]*)<is>",
        close="</call>",
        transform={"function": {"name": "{name}", "arguments": "{content}"}},
    )
    assert parsed("<call> <is>{}</call>", template=template) == [("content", "<call> <is>{}</call>")]


def test_without_tools_calls_are_content() -> None:
    assert parsed(f"<think>1</think>{CALL}", tools=False) == [("reasoning", "1"), ("content", CALL)]


@pytest.mark.parametrize("end", range(len('{"name": "add", "arguments": {"a": [1, "x"]}}')))
def test_a_call_that_is_cut_is_the_beginning_of_the_whole(end: int) -> None:
    body = '{"name": "add", "arguments": {"a": [1, "x"]}}'[:end]
    (part,) = parsed(f"<call>{body}", cut=True)
    if "add" + '"' in body:
        assert part[:3] == ("call", "0", "add")
        assert '{"a": [1, "x"]}'.startswith(part[3])
    else:
        assert part == ("content", f"<call>{body}")


def test_arguments_leave_as_they_come() -> None:
    parser = OutputParser(load_template(TEMPLATE, tools=True), "<bot>", [ADD])
    parser.push('<call>{"name": "add", "arguments": ')
    assert parser.push('{"a": ') == [Part("call", '{"a": ', 0, "add")]
    assert parser.push("1}") == [Part("call", "1}", 0, "add")]


def test_a_name_before_the_arguments() -> None:
    template = with_calls(
        open_pattern=r"\[call:(?P<name>\w+)\]",
        close="[end]",
        transform={"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
    )
    assert parsed('a[call:add] {"a": 1}[end][call:b][end]', template=template) == [
        ("content", "a"),
        ("call", "0", "add", '{"a": 1}'),
        ("call", "1", "b", "{}"),
    ]


XML = with_calls(
    open_pattern=r"<f=(?P<name>\w+)>",
    close="</f>",
    content="xml-inline",
    content_args={"tag_pattern": r"<(?P<key>\w+)>(?P<value>.*?)</\1>"},
    transform={"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
)


def test_a_region_that_is_no_json_is_read_when_it_ends() -> None:
    output = "<f=add><a>3</a><note>é 4</note></f><f=other><a>3</a></f>"
    assert parsed(output, template=XML) == [
        ("call", "0", "add", '{"a": 3, "note": "é 4"}'),
        ("call", "1", "other", '{"a": "3"}'),
    ]
    assert parsed("<f=add><a>3</a><no", template=XML, cut=True) == [("call", "0", "add", '{"a": 3')]


def test_a_region_that_its_template_can_not_read_is_content() -> None:
    template = with_calls(
        open="<call>", close="</call>", transform={"type": "function", "function": {"name": "{content.f}"}}
    )
    assert parsed('<call>{"g": 1}</call>!', template=template) == [("content", '<call>{"g": 1}</call>!')]
    assert parsed('<call>{"f": "add"}</call>', template=template) == [("call", "0", "add", "{}")]


def test_without_a_mark_only_tools_that_are_offered_are_called() -> None:
    template = with_calls(open_pattern=r"\A(?=\{)", transform={"type": "function", "function": "{content}"})
    assert parsed('{"name": "add", "parameters": {"a": 1}}', template=template) == [
        ("call", "0", "add", '{"a": 1}')
    ]
    for text in ('{"name": "Ann", "age": 7} she said', '{"age": 7}', 'Hm {"name": "add", "parameters": {}}'):
        assert parsed(text, template=template) == [("content", text)]


def test_reasoning_is_known_as_it_comes() -> None:
    parser = OutputParser(load_template(TEMPLATE, tools=True), "<bot><think>", [])
    assert parser.in_reasoning
    parser.push("a</think>")
    assert not parser.in_reasoning


def test_a_long_output_keeps_its_parts_though_what_was_read_is_dropped() -> None:
    template = with_calls(open_pattern=r"\A(?=\{)", transform={"type": "function", "function": "{content}"})
    text = "word " * 3000 + '{"name": "add", "arguments": {}}'
    assert parsed(text, template=template, pieces=7) == [("content", text)]
