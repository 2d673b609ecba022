"""Tool calls out of JSON that comes in pieces: `{"name": …, "arguments": {…}}`, one such object or several in a row.

The scanner follows the structure only: which object, which key, where a value ends. The arguments of a call are handed on as the
model writes them, so they are one JSON value if the model's text is. Pieces may be cut anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection

ARGUMENTS = ("arguments", "parameters")
_SPACE = " \t\r\n"


class CallScanner:
    """Calls `on_piece(name, arguments, first)` with what is new of a call: once with `first`, as soon as the name is known.

    `calls` counts those that were begun. `names`: the keys of a call's name; `arguments`: those of its arguments.
    """

    def __init__(
        self,
        on_piece: Callable[[str, str, bool], None],
        *,
        names: Collection[str] = ("name",),
        arguments: Collection[str] = ARGUMENTS,
    ) -> None:
        self.calls = 0
        self._on_piece = on_piece
        self._names = names
        self._argument_keys = arguments
        self._expect: Callable[[str], None] = self._object
        self._value: list[str] = []
        self._depth = 0
        self._escaped = self._quoted = self._streams = False
        self._new_call()

    def push(self, text: str) -> None:
        """Takes the next characters."""
        for character in text:
            self._expect(character)
        self._flush()

    def finish(self, *, cut: bool) -> None:
        """The text has ended. Arguments of a call that has none are `{}`, unless the text was `cut` in the middle."""
        if self._name is not None and not self._written and not cut:
            self._piece("{}")

    def _new_call(self) -> None:
        self._name: str | None = None
        self._waiting: list[str] = []  # arguments that are not handed on yet
        self._written = False
        self._key = ""

    # One method for each place in the text. Each takes one character and sets what comes next.

    def _object(self, character: str) -> None:
        if character == "{":
            self._new_call()
            self._expect = self._member

    def _member(self, character: str) -> None:
        if character == '"':
            self._begin_value(character)
            self._expect = self._in_key
        elif character == "}":
            self._flush()
            self.finish(cut=False)
            self._new_call()
            self._expect = self._object

    def _in_key(self, character: str) -> None:
        if self._in_string(character):
            self._key = _string("".join(self._value))
            self._expect = self._colon

    def _colon(self, character: str) -> None:
        if character == ":":
            self._expect = self._before_value

    def _before_value(self, character: str) -> None:
        if character in _SPACE:
            return
        self._begin_value(character)
        self._depth = 0
        if character in "{[":
            self._depth = 1
            self._streams = self._takes_arguments()
            if self._streams:
                self._waiting.append(character)
            self._expect = self._in_nested
        elif character == '"':
            self._expect = self._in_text
        else:
            self._expect = self._in_scalar

    def _in_nested(self, character: str) -> None:
        if self._streams:
            self._waiting.append(character)
        if self._quoted:
            if self._in_string(character):
                self._quoted = False
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            if not self._depth:
                self._expect = self._member

    def _in_text(self, character: str) -> None:
        if self._in_string(character):
            self._end_value(_string("".join(self._value)))
            self._expect = self._member

    def _in_scalar(self, character: str) -> None:
        if character not in ",}" and character not in _SPACE:
            self._value.append(character)
            return
        value = "".join(self._value)
        self._end_value("" if value == "null" else value)
        self._expect = self._member
        self._member(character)

    # What they share.

    def _begin_value(self, character: str) -> None:
        self._value = [character]
        self._escaped = self._quoted = False

    def _in_string(self, character: str) -> bool:
        """Goes on in a string. Whether `character` ends it."""
        self._value.append(character)
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        else:
            return character == '"'
        return False

    def _end_value(self, value: str) -> None:
        """A member that is no object has ended. Arguments that are a string have JSON in it."""
        if self._key in self._names and self._name is None and value:
            self._name = value
            self.calls += 1
            self._on_piece(value, "", True)
        elif value and self._takes_arguments():
            self._waiting.append(value)

    def _takes_arguments(self) -> bool:
        """Whether the value that comes is the arguments of the call: the first that are named so."""
        return self._key in self._argument_keys and not (self._written or self._waiting)

    def _flush(self) -> None:
        if self._name is not None and self._waiting:
            self._piece("".join(self._waiting))
            self._waiting = []

    def _piece(self, arguments: str) -> None:
        assert self._name is not None
        self._written = True
        self._on_piece(self._name, arguments, False)


def _string(written: str) -> str:
    """The string that a JSON string stands for; as it is written where it is not valid."""
    try:
        value: str = json.loads(written, strict=False)
    except ValueError:
        return written[1:-1]
    return encodable(value)


def encodable(text: str) -> str:
    """`text` with a question mark for each half of a character that JSON's escapes can name and UTF-8 can't hold."""
    return text.encode("utf-8", "replace").decode()
