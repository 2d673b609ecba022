"""The matcher of one choice: a function of the tokens."""

from __future__ import annotations

import pytest

from app.schema.constraint import Constraint
from deployments.engine.matcher import GrammarBroken, Matcher
from deployments.grammar.compiler import compile_grammar, read_vocabulary
from deployments.model import MODEL_DIR

END = 2
VOCABULARY = read_vocabulary((MODEL_DIR / "tokenizer.json").read_text("utf-8"), 2816, [END])
GRAMMAR = compile_grammar(VOCABULARY, Constraint(kind="regex", text="[0-9]{3}(-[0-9]{3})*"))


def ids(text: str) -> list[int]:
    return [int(token) for token in VOCABULARY.tokenize_str(text)]


def allowed(mask: bytes | None) -> set[int] | None:
    if mask is None:
        return None
    return {token for token in range(2816) if mask[token // 8] >> token % 8 & 1}


def test_a_mask_has_the_tokens_that_may_follow() -> None:
    matcher = Matcher(GRAMMAR)
    assert allowed(matcher.mask(ids("123-45"), 0)) == set(
        map(int, (ids(str(digit))[0] for digit in range(10)))
    )
    assert allowed(matcher.mask(ids("123-456"), 0)) == {END, *ids("-")}


def test_every_way_to_the_same_tokens_gives_the_same_mask() -> None:
    tokens = ids("123-456-789")
    stepwise = Matcher(GRAMMAR)
    for count in range(len(tokens) + 1):
        mask = stepwise.mask(tokens[:count], 0)
        assert mask == Matcher(GRAMMAR).mask(tokens[:count], 0)
        assert mask == stepwise.mask(tokens[:count], 0)
    assert stepwise.mask(tokens[:2], 0) == Matcher(GRAMMAR).mask(tokens[:2], 0), "and back"


def test_a_token_that_does_not_fit_breaks_it() -> None:
    matcher = Matcher(GRAMMAR)
    with pytest.raises(GrammarBroken):
        matcher.mask(ids("12x"), 0)


def test_a_clients_tokens_that_do_not_fit_end_the_constraint() -> None:
    tokens = ids("12x")
    matcher = Matcher(GRAMMAR)
    assert matcher.mask(tokens, len(tokens)) is None
    assert matcher.mask([*tokens, *ids("any")], len(tokens)) is None
    assert allowed(Matcher(GRAMMAR).mask(ids("123"), 3)) == {END, *ids("-")}


def test_the_constraint_begins_after_its_marker() -> None:
    marker = tuple(ids("</t"))
    matcher = Matcher(GRAMMAR, marker)
    thought = ids("so </ </t")
    for count in range(len(thought)):
        assert matcher.mask(thought[:count], 0) is None
    assert matcher.mask(thought, 0) == Matcher(GRAMMAR).mask([], 0)
    assert matcher.mask([*thought, *ids("12")], 0) == Matcher(GRAMMAR).mask(ids("12"), 0)
