"""From a constraint to a matcher, which says token by token what may follow.

The library llguidance does the work. What compiles here compiles the same way in every process, because the limits are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from app.schema.constraint import Constraint

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

LIMITS = LLParserLimits(
    # About 20 ms of work; what a schema of a thousand properties needs is a tenth of it.
    initial_lexer_fuel=1_000_000,
    # About 5 ms and 1 ms of work for a token, at most.
    step_lexer_fuel=70_000,
    step_max_items=20_000,
    # A property that may be left out takes four.
    max_items_in_row=20_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
JSON_OPTIONS: JsonCompileOptions = {
    # A model may write one space between the parts, as most are used to; it can't go on with spaces for ever.
    "whitespace_flexible": True,
    "whitespace_pattern": " ?",
    # What a schema says is kept or refused.
    "coerce_one_of": False,
    "lenient": False,
}
MAX_ERROR_CHARACTERS = 300
TRIED_TOKENS = 4
"""Some limits are those of a place in the text, such as the one after the brace of an object."""


class InvalidGrammar(Exception):
    """The constraint can't be kept. The message says why, for the client."""


class UnsupportedTokenizer(Exception):
    """llguidance can't read the tokenizer, or the model has no end token. The message says why, for the operator."""


def read_vocabulary(tokenizer_json: str, vocab_size: int, end_ids: Iterable[int]) -> LLTokenizer:
    """The tokens of a model as bytes. `end_ids` end its answers. May take a second; raises `UnsupportedTokenizer`."""
    ends = sorted(end_ids)
    if not ends:
        raise UnsupportedTokenizer("the model names no end token")
    try:
        return LLTokenizer(tokenizer_json, n_vocab=vocab_size, eos_token=ends)
    except ValueError as error:
        raise UnsupportedTokenizer(str(error)) from error


def compile_grammar(vocabulary: LLTokenizer, constraint: Constraint) -> LLMatcher:
    """A matcher at the beginning of an answer; to be copied. Raises `InvalidGrammar`.

    May take seconds, and may crash the process: for what a client sends first see `checker`.
    """
    try:
        if constraint.kind == "json_schema":
            grammar = LLMatcher.grammar_from_json_schema(constraint.text, overrides=JSON_OPTIONS)
        elif constraint.kind == "regex":
            grammar = LLMatcher.grammar_from_regex(constraint.text)
        else:
            grammar = LLMatcher.grammar_from_lark(constraint.text)
    except ValueError as error:
        raise InvalidGrammar(_sentence(str(error))) from error
    matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=LIMITS)
    # The first mask costs most. Its work is in the matcher then, and so in all its copies.
    mask = b"" if matcher.is_error() else matcher.compute_bitmask()
    tried = matcher.deep_copy()
    for _ in range(TRIED_TOKENS):
        if tried.is_error():
            complaint = tried.get_error()
            raise InvalidGrammar("No text fits it." if "NoExtension" in complaint else _sentence(complaint))
        allowed = int.from_bytes(mask, "little")
        token = (allowed & -allowed).bit_length() - 1
        if tried.is_stopped() or token == vocabulary.eos_token:
            break
        tried.consume_token(token)
        mask = tried.compute_bitmask()
    return matcher


def _sentence(error: str) -> str:
    """The library's error on one line, without its marks."""
    words = " ".join(error.replace("<non-verbose/>", " ").split())
    if len(words) > MAX_ERROR_CHARACTERS:
        words = words[:MAX_ERROR_CHARACTERS] + "…"
    return words.rstrip(".") + "."
