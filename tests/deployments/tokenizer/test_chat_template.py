"""Tools, calls and results reach the model in the form that its template takes, and none of them forges a control token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.schema.requests import GenerationRequest, Message
from app.schema.sampling import SamplingParams
from app.schema.tools import Tool, ToolCall
from app.settings import ModelSettings
from deployments.model import MODEL_DIR
from deployments.tokenizer.prompt_encoder import PromptEncoder
from tests.deployments.tokenizer import templates

WEATHER = Tool(
    name="weather",
    description="The weather of a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CALL = ToolCall(id="call_0123456789abcdef", name="weather", arguments='{"city": "Paris", "days": [1, 2]}')
HELLO = Message("user", "Is it warm?")
AGENT = (
    HELLO,
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", "It is.", tool_call_id=CALL.id),
)


def encoder_with(
    directory: Path, template: str | dict[str, str], name: str = "m", **settings: Any
) -> PromptEncoder:
    """The embedded model with another template, or with several by their names."""
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (directory / file).write_bytes((MODEL_DIR / file).read_bytes())
    if isinstance(template, str):
        (directory / "chat_template.jinja").write_text(template)
    else:
        (directory / "chat_template.jinja").write_text(template["default"])
        (directory / "additional_chat_templates").mkdir(exist_ok=True)
        for key in template.keys() - {"default"}:
            (directory / "additional_chat_templates" / f"{key}.jinja").write_text(template[key])
    return PromptEncoder(ModelSettings(name=name, path=str(directory), **settings))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PromptEncoder]:
    return {
        name: encoder_with(tmp_path_factory.mktemp(name), template)
        for name, template in templates.WITH_TOOLS.items()
    }


def asked(*messages: Message, **fields: Any) -> GenerationRequest:
    return GenerationRequest(
        model="m", sampling=SamplingParams(max_tokens=1), messages=messages or (HELLO,), **fields
    )


def shown(encoder: PromptEncoder, request: GenerationRequest) -> str:
    return encoder._plain.decode(encoder.encode(request), skip_special_tokens=False)


def test_tools_and_calls_in_the_style_of_hermes(encoders: dict[str, PromptEncoder]) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": WEATHER.name,
            "description": WEATHER.description,
            "parameters": WEATHER.parameters,
        },
    }
    messages = (Message("system", "Be brief."), *AGENT)
    assert shown(encoders["hermes"], asked(*messages, tools=(WEATHER,))) == (
        f"<|bos|><|system|>Be brief.\nFunctions:\n<tools>\n{json.dumps(tool)}\n</tools><|eos|>"
        "<|user|>Is it warm?<|eos|>"
        '<|assistant|><tool_call>{"name": "weather", "arguments": {"city": "Paris", "days": [1, 2]}}</tool_call><|eos|>'
        "<|user|><tool_response>It is.</tool_response><|eos|><|assistant|>"
    )


def test_calls_in_the_style_of_xml(encoders: dict[str, PromptEncoder]) -> None:
    assert shown(encoders["xml"], asked(*AGENT, tools=(WEATHER,))) == (
        "<|bos|><function><name>weather</name>The weather of a city.<parameter>city:text</parameter></function>"
        "<|user|>Is it warm?<|eos|><|assistant|><function=weather><parameter=city>Paris</parameter>"
        "<parameter=days>[1, 2]</parameter></function><|eos|><|user|>It is.<|eos|><|assistant|>"
    )


def test_a_template_that_wants_text_and_no_content_gets_them(encoders: dict[str, PromptEncoder]) -> None:
    assert shown(encoders["deepseek"], asked(*AGENT)) == (
        '<|bos|><|user|>Is it warm?<|eos|><|assistant|>weather\n{"city": "Paris", "days": [1, 2]}<|eos|>'
        "<|user|>weather: It is.<|eos|><|assistant|>"
    )


def test_a_template_that_wants_short_ids_gets_them(encoders: dict[str, PromptEncoder]) -> None:
    assert shown(encoders["mistral"], asked(*AGENT)) == (
        '<|bos|><|user|>Is it warm?<|eos|><|assistant|>[CALL]weather{"city": "Paris", "days": [1, 2]}789abcdef<|eos|>'
        "<|user|>789abcdef It is.<|eos|><|assistant|>"
    )
    short = ToolCall(id="a-1", name="weather", arguments="{}")
    messages = (HELLO, Message("assistant", "", tool_calls=(short,)), Message("tool", "", tool_call_id="a-1"))
    assert "0000000a1 <|eos|>" in shown(encoders["mistral"], asked(*messages))


@pytest.mark.parametrize("name", templates.WITH_TOOLS)
def test_without_tools_nothing_is_said_of_them(encoders: dict[str, PromptEncoder], name: str) -> None:
    assert encoders[name].card.shows_tools
    assert shown(encoders[name], asked()) == "<|bos|><|user|>Is it warm?<|eos|><|assistant|>"


def test_a_tool_without_parameters_takes_none(encoders: dict[str, PromptEncoder]) -> None:
    bare = (Tool(name="now"), Tool(name="then", parameters={"type": "object"}))
    assert '"parameters": {"type": "object", "properties": {}}' in shown(
        encoders["hermes"], asked(tools=bare)
    )
    assert "<name>then</name>" in shown(encoders["xml"], asked(tools=bare))


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("", "{}"),
        ('{"a":1}', '{"a": 1}'),
        ("not JSON", "not JSON"),
        ("[1]", "[1]"),
        ('{"a":NaN}', '{"a":NaN}'),
        ('{"a":"\\ud800"}', '{"a":"\\ud800"}'),
        ('{"a":' * 220 + "1" + "}" * 220, '{"a":' * 220 + "1" + "}" * 220),
    ],
)
def test_arguments_that_are_no_object_stay_text(
    encoders: dict[str, PromptEncoder], arguments: str, written: str
) -> None:
    call = ToolCall(id="1", name="f", arguments=arguments)
    text = shown(encoders["hermes"], asked(HELLO, Message("assistant", "", tool_calls=(call,))))
    assert f'"arguments": {written}}}</tool_call>' in text


def test_what_was_thought_is_a_part_of_the_history(encoders: dict[str, PromptEncoder]) -> None:
    answer = Message("assistant", "Yes.", reasoning="It is June.")
    assert "<|assistant|><think>It is June.</think>Yes.<|eos|>" in shown(
        encoders["hermes"], asked(HELLO, answer, HELLO)
    )


def test_a_template_finds_reasoning_by_any_of_its_names(tmp_path: Path) -> None:
    names = ("reasoning_content", "reasoning", "thinking")
    template = "".join(f"{{{{ messages[0].{name} }}}}/" for name in names)
    encoder = encoder_with(tmp_path, template + "{{ messages[0].tool_calls is defined }}")
    assert shown(encoder, asked(Message("assistant", "Yes.", reasoning="Hm."))) == "Hm./Hm./Hm./False"


def test_a_template_of_its_own_for_tools_is_taken_for_calls_too(tmp_path: Path) -> None:
    encoder = encoder_with(tmp_path, {"default": templates.PLAIN, "tool_use": templates.HERMES})
    assert "<tools>" in shown(encoder, asked(tools=(WEATHER,)))
    assert "<tool_call>" in shown(encoder, asked(*AGENT))
    assert shown(encoder, asked()) == "<|bos|><|user|>Is it warm?<|eos|><|assistant|>"


def test_a_template_without_tools_is_told_of_them_by_text(tmp_path: Path) -> None:
    encoder = encoder_with(tmp_path, templates.PLAIN)
    assert encoder.card.calls_tools and not encoder.card.reasons
    told = shown(encoder, asked(Message("system", "Be brief."), *AGENT, AGENT[2], tools=(WEATHER,)))
    function = json.dumps(
        {"name": "weather", "description": "The weather of a city.", "parameters": WEATHER.parameters}
    )
    assert told == (
        f"<|bos|><|system|>Be brief.\n\nYou can call these functions:\n<tools>\n{function}\n</tools>\n"
        "To call one, answer with its name and arguments as JSON:\n"
        '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>\n'
        "Its result comes between <tool_response> and </tool_response>.<|eos|>"
        "<|user|>Is it warm?<|eos|>"
        '<|assistant|><tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": [1, 2]}}\n</tool_call><|eos|>'
        "<|user|><tool_response>\nIt is.\n</tool_response>\n<tool_response>\nIt is.\n</tool_response><|eos|><|assistant|>"
    )
    assert shown(encoder, asked()) == "<|bos|><|user|>Is it warm?<|eos|><|assistant|>"


def test_tools_stand_before_the_question_where_no_system_can_speak(tmp_path: Path) -> None:
    without_system = "{% if messages[0].role == 'system' %}{{ raise_exception('No system.') }}{% endif %}"
    encoder = encoder_with(tmp_path, without_system + templates.PLAIN)
    told = shown(encoder, asked(tools=(WEATHER,)))
    assert told.startswith("<|bos|><|user|>You can call these functions:\n<tools>\n{")
    assert told.endswith("</tool_response>.\n\nIs it warm?<|eos|><|assistant|>")


def test_a_model_whose_tools_are_switched_off_says_so(tmp_path: Path) -> None:
    encoder = encoder_with(tmp_path, templates.PLAIN, name="poet", tool_parser="none")
    assert not encoder.card.shows_tools
    with pytest.raises(InvalidRequest, match="The model poet has no tools") as refusal:
        encoder.encode(asked(tools=(WEATHER,)))
    assert refusal.value.param == "tools"
    for messages, param in ((AGENT, "messages[1].tool_calls"), ((HELLO, AGENT[2]), "messages[1].role")):
        with pytest.raises(
            InvalidRequest, match="The chat template of the model poet does not show"
        ) as refusal:
            encoder.encode(asked(*messages))
        assert refusal.value.param == param


def test_a_message_with_calls_can_be_continued(encoders: dict[str, PromptEncoder]) -> None:
    messages = (HELLO, Message("assistant", "Let me see", tool_calls=(CALL,)))
    text = shown(
        encoders["hermes"], asked(*messages, continue_final_message=True, add_generation_prompt=False)
    )
    assert text.endswith("<|assistant|>Let me see")


# Nothing that a client writes becomes a control token.

NAMES = (
    "<|eos|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|bos|>",
    "<|eos",
    "|>",
    "<",
    "|",
    "eos",
    "\\",
    '"',
)
TEXTS = (
    st.lists(st.sampled_from(NAMES) | st.text(max_size=3), max_size=4)
    .map("".join)
    .map(lambda text: text.encode("utf-8", "ignore").decode())
)
VALUES = st.recursive(
    TEXTS | st.integers(-9, 9) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=2)
TOOLS = st.builds(
    lambda name, description, properties: Tool(
        name=name,
        description=description,
        parameters={
            "type": "object",
            "properties": {key: {"type": "string"} | value for key, value in properties.items()},
        },
    ),
    TEXTS,
    TEXTS,
    st.dictionaries(TEXTS, OBJECTS, max_size=2),
)
CALLS = st.builds(
    lambda call_id, name, arguments: ToolCall(id=call_id, name=name, arguments=arguments),
    TEXTS,
    TEXTS,
    OBJECTS.map(json.dumps),
)


@pytest.mark.parametrize("template", templates.WITH_TOOLS)
@given(
    tools=st.lists(TOOLS, min_size=1, max_size=2),
    calls=st.lists(CALLS, min_size=1, max_size=2),
    texts=st.tuples(TEXTS, TEXTS, TEXTS, TEXTS),
)
def test_no_text_of_a_client_becomes_a_control_token(
    encoders: dict[str, PromptEncoder],
    template: str,
    tools: list[Tool],
    calls: list[ToolCall],
    texts: tuple[str, str, str, str],
) -> None:
    encoder = encoders[template]
    special = {
        token_id for token_id, token in encoder._plain.get_added_tokens_decoder().items() if token.special
    }

    def control(tools: list[Tool], calls: list[ToolCall], texts: tuple[str, str, str, str]) -> list[int]:
        request = asked(
            Message("user", texts[0], name=texts[1]),
            Message("assistant", "", reasoning=texts[2], tool_calls=tuple(calls)),
            Message("tool", texts[3], tool_call_id=calls[0].id),
            tools=tuple(tools),
        )
        return [token_id for token_id in encoder.encode(request) if token_id in special]

    plain = [ToolCall(id="c", name="f", arguments="{}") for _ in calls]
    assert control(tools, calls, texts) == control([Tool(name="f")], plain, ("a", "b", "c", "d"))


def test_marked_text_is_what_it_was_to_a_template(tmp_path: Path) -> None:
    """Schemas and arguments are looked into, not only written."""
    template = (
        "{% for tool in tools %}{% set p = tool.function.parameters %}{{ p.type }}"
        "{% for name, field in p.properties | items %}[{{ name }} {{ field.type == 'string' }} {{ field.enum | join('/') }}"
        "{{ ' required' if name in p.required }}]{% endfor %}{% endfor %}"
        "{% if notes == '<|eos|>' %}same{% endif %}{% if notes != '<|eos|>' %}other{% endif %}"
    )
    encoder = encoder_with(tmp_path, "{% if tools %}{{ tools[0].function.name }}{% endif %}" + template)
    field = {"type": "string", "enum": ["<|eos|>", "b"]}
    tool = Tool(name="f", parameters={"type": "object", "properties": {"<a": field}, "required": ["<a"]})
    request = asked(tools=(tool,), chat_template_kwargs={"notes": "<|eos|>"})
    assert shown(encoder, request) == "fobject[<a True <|eos|>/b required]same"
