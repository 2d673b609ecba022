"""Control tokens in chats: those that the template writes are tokens, their names in a client's text are plain text.

The template gets the client's texts with marks in them: a character that occurs in none of them, after each character with which
a name begins. Whatever the template does with the texts, a name without a mark inside is its own. Such names are replaced by
aliases, the marks are taken out, and a second tokenizer encodes the result. It knows the control tokens by their aliases only;
their ids and all else are the same. So the ids are those of the usual tokenizer wherever no client names a control token.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from deployments.model.files import bare_copy

if TYPE_CHECKING:
    import tokenizers

# Characters for private use, which have no case and are no white space.
QUOTE = "\U000f0000"
FIRST_MARK = 0xF0001

SCHEMA_WORDS = frozenset(
    "additionalProperties allOf anyOf const default description enum format items nullable oneOf properties required title "
    "type".split()
)


class ControlTokens:
    """The control tokens of a tokenizer: its special tokens, and its other added tokens that `template` names."""

    def __init__(self, tokenizer_json: str, template: str) -> None:
        written = json.loads(tokenizer_json)
        # Of single characters only special tokens: others are ordinary text (Gemma has one for the line break).
        control = [
            token
            for token in written["added_tokens"]
            if token["content"]
            and (token["special"] or (len(token["content"]) > 1 and token["content"] in template))
        ]
        # A client can't write an alias, because it can't know the secret.
        secret = secrets.token_hex(8)
        aliases = {token["content"]: f"{QUOTE}{secret}-{token['id']}{QUOTE}" for token in control}
        self._special = {token["content"] for token in control if token["special"]}
        longest_first = sorted(aliases, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._beginnings = {case(name[0]) for name in aliases for case in (str.lower, str.upper)}
        # The names of such tokens are found in normalized text, so they can begin with any character.
        self._normalized = any(token["normalized"] for token in control)
        self._tokenizer, self._aliases = _renamed(written, aliases)

    def can_be_named(self, texts: Iterable[str]) -> bool:
        """Whether a template could make the name of a control token from these texts."""
        return self._normalized or any(beginning in text for text in texts for beginning in self._beginnings)

    def marks(self, texts: Iterable[str]) -> Marks:
        """Marks for these texts of a client."""
        return Marks(unused_character(texts), self._beginnings)

    def encode_rendered(self, rendered: str, marks: Marks) -> list[int]:
        """The ids of what a template has made of marked texts."""
        return encoded(self._tokenizer, marks.removed(self._names.sub(self._alias, rendered)))

    def encode_text(self, text: str) -> list[int]:
        """The ids of a text in which the names of special tokens are text."""
        return encoded(self._tokenizer, self._names.sub(self._alias_unless_special, text))

    def _alias(self, name: re.Match[str]) -> str:
        return self._aliases.get(name[0], name[0])

    def _alias_unless_special(self, name: re.Match[str]) -> str:
        return name[0] if name[0] in self._special else self._alias(name)


def unused_character(texts: Iterable[str]) -> str:
    """One that occurs in none of the texts, nor does its escape sequence of JSON."""
    texts = list(texts)
    used = set().union(*texts)
    return next(
        character
        for character in map(chr, count(FIRST_MARK))
        if character not in used and not any(_escaped(character) in text for text in texts)
    )


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def strings_in(value: Any) -> Iterator[str]:
    """Every string of what is made of what JSON has, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value:
            yield from strings_in(item)
        if isinstance(value, dict):
            for item in value.values():
                yield from strings_in(item)


class Marks:
    """Puts `mark` after each character of a text that is one of `beginnings`."""

    def __init__(self, mark: str, beginnings: Iterable[str]) -> None:
        self.mark = mark
        self._escaped = _escaped(mark)
        self._table = str.maketrans({character: character + mark for character in beginnings})

    def put(self, text: str) -> MarkedText:
        return MarkedText(text.translate(self._table), self)

    def removed(self, text: str) -> str:
        """`text` without the marks, also where a template has written it as JSON of ASCII only."""
        return text.replace(self.mark, "").replace(self._escaped, "")

    def put_all(self, value: Any) -> Any:
        """`value`, which is made of what JSON has, with marks in each of its strings but the words of JSON Schema.

        Templates look for these, which a name with marks is not, and none of them is the name of a control token.
        """
        if isinstance(value, str):
            return self.put(value)
        if isinstance(value, list):
            return [self.put_all(item) for item in value]
        if isinstance(value, dict):
            return {
                key if key in SCHEMA_WORDS else self.put(key): self.put_all(item)
                for key, item in value.items()
            }
        return value


class MarkedText(str):
    """Text with marks, which looks to a template as if there were none.

    What the template looks for in it (`split('</think>')`, `'<x>' in content`) is marked first. What it gets from it is marked
    text.
    """

    marks: Marks

    def __new__(cls, marked: str, marks: Marks) -> MarkedText:
        text = super().__new__(cls, marked)
        text.marks = marks
        return text

    def __str__(self) -> str:
        return self


def _method(name: str) -> Callable[..., Any]:
    """A method of `str` for marked text. What it looks for is its first argument."""
    original: Callable[..., Any] = getattr(str, name)

    def call(text: MarkedText, *arguments: Any) -> Any:
        looked_for = [_marked(argument, text.marks) for argument in arguments[:1]]
        return _marked_result(original(text, *looked_for, *arguments[1:]), text.marks)

    return call


def _marked(argument: Any, marks: Marks) -> Any:
    if isinstance(argument, tuple):
        return tuple(_marked(item, marks) for item in argument)
    if isinstance(argument, str) and not isinstance(argument, MarkedText):
        return marks.put(argument)
    return argument


def _marked_result(result: Any, marks: Marks) -> Any:
    if isinstance(result, list | tuple):
        return type(result)(_marked_result(item, marks) for item in result)
    return MarkedText(result, marks) if isinstance(result, str) else result


for _name in (
    "__contains__ __eq__ __getitem__ __ne__ "
    "capitalize casefold count endswith find index lower lstrip partition removeprefix removesuffix "
    "replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper"
).split():
    setattr(MarkedText, _name, _method(_name))


def encoded(tokenizer: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """The ids of `text`. Other threads can run meanwhile: `encode_batch` frees the interpreter lock."""
    ids: list[int] = tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids
    return ids


def _renamed(written: dict[str, Any], names: dict[str, str]) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of a tokenizer.json with the tokens `names` under other names, and the names that were changed.

    Changes `written`. A single character keeps its name (CLIP pads with "!"): it is an ordinary token too, with the same id.
    """
    model = written["model"]
    changed = {name: alias for name, alias in names.items() if len(name) > 1}
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {changed.get(text, text): token_id for text, token_id in vocabulary.items()}
    else:
        model["vocab"] = [[changed.get(text, text), score] for text, score in vocabulary]
    if "merges" in model:
        # Vocabularies that come from SentencePiece have merges that make the names out of text.
        model["merges"] = [
            (first, second)
            for first, second in model["merges"]
            if changed.keys().isdisjoint((first, second, first + second))
        ]
    if model.get("unk_token") is not None:
        model["unk_token"] = changed.get(model["unk_token"], model["unk_token"])
    for token in written["added_tokens"]:
        if token["content"] in changed:
            token |= {"content": changed[token["content"]], "normalized": False}
    tokenizer = bare_copy(json.dumps(written))
    for token in written["added_tokens"]:
        if tokenizer.token_to_id(token["content"]) != token["id"]:
            raise ValueError(f"the tokenizer has no place for its added token {token['id']}")
    return tokenizer, changed
