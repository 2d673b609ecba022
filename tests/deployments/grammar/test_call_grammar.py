"""An answer that must call tools: whatever a model prefers, it is calls that are found in it and whose arguments fit."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import msgspec
import pytest
import tokenizers

from app.errors import InvalidRequest
from app.ports import ModelCard
from app.schema.constraint import Constraint
from app.schema.requests import GenerationRequest, Message
from app.schema.sampling import SamplingParams
from app.schema.tools import Tool
from app.settings import ModelSettings
from app.text.call_grammar import after_reasoning, forced_calls
from app.text.output_parser import OutputParser, load_template
from app.text.vocabulary import Vocabulary, vocabulary_of
from deployments.grammar.compiler import InvalidGrammar, compile_grammar, read_vocabulary
from deployments.tokenizer.prompt_encoder import PromptEncoder
from deployments.tokenizer.response_templates import FORMATS

PLACE = {"$ref": "#/$defs/place"}
WEATHER = Tool(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {"place": PLACE, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["place"],
        "$defs": {"place": {"enum": ["Oslo", "Paris"]}},
    },
)
NOW = Tool(name="now")
ODD = Tool(name="odd", parameters={"type": "array", "items": {"type": "integer"}, "uniqueItems": True})


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(ModelSettings(name="m"))


@pytest.fixture(scope="module")
def card(encoder: PromptEncoder) -> ModelCard:
    return msgspec.structs.replace(encoder.card, structured_output=True)


@pytest.fixture(scope="module")
def vocabulary(card: ModelCard) -> Vocabulary:
    return vocabulary_of(tokenizers.Tokenizer.from_str(card.tokenizer_json))


def asked(choice: str, *tools: Tool, **fields: Any) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=0, **fields.pop("sampling", {}))
    return GenerationRequest(
        model="m",
        messages=(Message("user", "?"),),
        sampling=sampling,
        tools=tools or (WEATHER, NOW),
        tool_choice=choice,
        **fields,
    )


def an_answer(encoder: PromptEncoder, constraint: Constraint, seed: int) -> str:
    """What a model without any preference answers."""
    card = encoder.card
    tokens = read_vocabulary(card.tokenizer_json, card.vocab_size, encoder.end_ids)
    matcher, source, ids = compile_grammar(tokens, constraint), random.Random(seed), list[int]()
    while len(ids) < 2000:
        mask = matcher.compute_bitmask()
        allowed = [place for place in range(card.vocab_size) if mask[place // 8] >> place % 8 & 1]
        token = source.choice(allowed)
        if token in encoder.end_ids:
            break
        assert matcher.consume_token(token)
        ids.append(token)
    return tokenizers.Tokenizer.from_str(card.tokenizer_json).decode(ids, skip_special_tokens=False)


def calls_in(answer: str, template: dict[str, Any], tools: tuple[Tool, ...]) -> list[tuple[str, Any]]:
    parser = OutputParser(load_template(template, tools=True), "<|assistant|>", tools)
    calls: dict[int, tuple[str, str]] = {}
    for part in [*parser.push(answer), *parser.finish(cut=False)]:
        assert part.kind != "content" or not part.text.strip()
        if part.kind == "call":
            calls[part.call] = (part.name, calls.get(part.call, ("", ""))[1] + part.text)
    return [(name, json.loads(arguments)) for name, arguments in calls.values()]


@pytest.mark.parametrize("seed", range(5))
def test_required_gives_calls_that_fit(
    encoder: PromptEncoder, card: ModelCard, vocabulary: Vocabulary, seed: int
) -> None:
    request = asked("required")
    constraint = forced_calls(request, card, vocabulary)
    assert constraint is not None and card.response_template is not None
    calls = calls_in(an_answer(encoder, constraint, seed), card.response_template, request.tools)
    assert 1 <= len(calls) <= 16
    for name, arguments in calls:
        jsonschema.validate(arguments, WEATHER.parameters if name == "get_weather" else {"maxProperties": 0})
        assert arguments.keys() <= {"place", "days"}


@pytest.mark.parametrize(
    ("choice", "parallel", "names"),
    [("function:now", True, {"now"}), ("required", False, {"now", "get_weather"})],
)
def test_one_call(
    encoder: PromptEncoder,
    card: ModelCard,
    vocabulary: Vocabulary,
    choice: str,
    parallel: bool,
    names: set[str],
) -> None:
    request = asked(choice, parallel_tool_calls=parallel)
    constraint = forced_calls(request, card, vocabulary)
    assert constraint is not None and card.response_template is not None
    for seed in range(5):
        [(name, _)] = calls_in(an_answer(encoder, constraint, seed), card.response_template, request.tools)
        assert name in names


def test_a_model_that_thinks_may_think_first(
    encoder: PromptEncoder, card: ModelCard, vocabulary: Vocabulary
) -> None:
    thinker = msgspec.structs.replace(card, response_template=FORMATS["hermes"])
    constraint = forced_calls(asked("required"), thinker, vocabulary)
    assert constraint is not None
    tokens = read_vocabulary(card.tokenizer_json, card.vocab_size, encoder.end_ids)
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    for answer in (call, f"<think>The time.</think>\n\n{call}", f"The time.</think>{call}\n{call}"):
        matcher = compile_grammar(tokens, constraint)
        assert matcher.try_consume_tokens(tokens.tokenize_str(answer)) == len(tokens.tokenize_str(answer))
        assert matcher.is_accepting()


def test_a_special_token_is_the_mark_that_it_names(card: ModelCard, vocabulary: Vocabulary) -> None:
    fields = {"tool_calls": {**FORMATS["hermes"]["fields"]["tool_calls"], "open": "<|eos|>"}}
    marked = msgspec.structs.replace(card, response_template={"fields": fields})
    constraint = forced_calls(asked("function:now"), marked, vocabulary)
    eos = vocabulary.tokenizer.token_to_id("<|eos|>")
    assert constraint is not None and f"call: <[{eos}]> /" in constraint.text


def test_what_a_schema_can_not_keep_is_refused_for_a_strict_tool_only(
    encoder: PromptEncoder, card: ModelCard, vocabulary: Vocabulary
) -> None:
    tokens = read_vocabulary(card.tokenizer_json, card.vocab_size, encoder.end_ids)
    lenient = forced_calls(asked("required", ODD), card, vocabulary)
    assert lenient is not None
    compile_grammar(tokens, lenient)
    strict = forced_calls(asked("required", msgspec.structs.replace(ODD, strict=True)), card, vocabulary)
    assert strict is not None
    with pytest.raises(InvalidGrammar, match="uniqueItems"):
        compile_grammar(tokens, strict)


def test_what_a_tool_asks_for_beside_its_properties_is_left_open(
    encoder: PromptEncoder, card: ModelCard, vocabulary: Vocabulary
) -> None:
    tokens = read_vocabulary(card.tokenizer_json, card.vocab_size, encoder.end_ids)
    parameters = {"properties": {"mail": {"type": "string", "pattern": "^(?!x).*$"}}, "required": ["q"]}
    constraint = forced_calls(asked("required", Tool(name="t", parameters=parameters)), card, vocabulary)
    assert constraint is not None
    matcher = compile_grammar(tokens, constraint)
    ids = tokens.tokenize_str('<tool_call>\n{"name": "t", "arguments": {"q": 1}}\n</tool_call>')
    assert matcher.try_consume_tokens(ids) == len(ids)


def test_a_form_begins_after_reasoning(vocabulary: Vocabulary) -> None:
    constraint = Constraint(kind="regex", text="a")
    assert after_reasoning(constraint, None, vocabulary) is constraint
    eos = vocabulary.tokenizer.token_to_id("<|eos|>")
    assert after_reasoning(constraint, "<|eos|>", vocabulary).starts_after == (eos,)
    with pytest.raises(InvalidRequest, match="thinks first") as refusal:
        after_reasoning(constraint, "</think>", vocabulary)
    assert refusal.value.param == "response_format"


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_nothing_is_forced(card: ModelCard, vocabulary: Vocabulary, choice: str) -> None:
    assert forced_calls(asked(choice), card, vocabulary) is None


def test_what_can_not_be_forced_is_refused(card: ModelCard, vocabulary: Vocabulary) -> None:
    for change in ({"structured_output": False}, {"response_template": FORMATS["glm"]}):
        with pytest.raises(InvalidRequest, match="Calls can't be required of the model m") as refusal:
            forced_calls(asked("required"), msgspec.structs.replace(card, **change), vocabulary)
        assert refusal.value.param == "tool_choice"
    for name, value in (("ignore_eos", True), ("min_tokens", 3)):
        with pytest.raises(InvalidRequest, match=f"{name} can't go with") as refusal:
            forced_calls(asked("required", sampling={name: value}), card, vocabulary)
        assert refusal.value.param == name
