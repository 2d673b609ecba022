"""The parts of one choice's output: content, reasoning, and pieces of tool calls.

The regions of the output are found by transformers' `ResponseParser`, after the `response_template` of the model. It imports no
torch, but costs a process about 0.7 s and 55 MB, so this module is imported when the first model with a template is loaded.

What leaves is a pure function of the template, the tools, the end of the prompt, and the texts that were pushed, in their pieces.
No output, however wrong, raises: what looks like a tool call and is none is content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from transformers.utils.chat_parsing.content_parsers import process_field
from transformers.utils.chat_parsing.response_parser import ResponseParser
from transformers.utils.chat_parsing.response_templates import ResponseTemplate, load_response_template

from app.ports import CALLS_FIELD, REASONING_FIELDS
from app.schema.tools import Tool
from app.text.call_scanner import ARGUMENTS, CallScanner, encodable

Kind = Literal["content", "reasoning", "call"]

_MAX_READ_CHARACTERS = 4096
_LOOK_BEHIND_CHARACTERS = 64


class Part(NamedTuple):
    """What the output gained. Of a call: `call` is its index, `name` its name, `text` what its arguments gained."""

    kind: Kind
    text: str
    call: int = 0
    name: str = ""


def load_template(written: dict[str, Any], *, tools: bool) -> ResponseTemplate:
    """The template, ready for parsers. Without `tools`, calls are content. Raises `ValueError` for one that is wrong."""
    if not tools:
        fields = {name: field for name, field in written["fields"].items() if name != CALLS_FIELD}
        written = {**written, "fields": fields or {"content": {}}}
    return load_response_template(written)


class OutputParser:
    """Parses one output. `prefix` is the prompt as text: what the chat template has begun, the output goes on with.

    `in_reasoning`: what comes next is reasoning, unless it is the end of it.
    """

    def __init__(self, template: ResponseTemplate, prefix: str, tools: Sequence[Tool]) -> None:
        self.tools = tools
        self._parts: list[Part] = []
        self._kind: Kind | None = None
        self._told: set[Kind] = set()
        self._begins = True  # no region has been opened yet
        self._space = ""
        self._space_kind: Kind = "content"
        self._call: _CallRegion | None = None
        self._calls = self._calls_before = 0
        self._cut = self._ending = False
        self._regions = _Regions(template, prefix, self)
        # Of the calls in the prompt only one that the output goes on with is a call of the output.
        self._calls = int(self._in_call and self._calls > self._calls_before)
        self._parts.clear()
        self._told.clear()
        self._space = ""

    @property
    def in_reasoning(self) -> bool:
        return self._kind == "reasoning"

    @property
    def _in_call(self) -> bool:
        return self._kind == "call"

    def push(self, text: str) -> list[Part]:
        """The parts that leave with this text."""
        if not text:
            return []
        self._regions.go_on(text)
        parts, self._parts = self._parts, []
        return parts

    def finish(self, *, cut: bool) -> list[Part]:
        """What is still held, because the output has ended. `cut`: not by itself."""
        self._cut, self._ending = cut, True
        self._regions.go_on("", last=True)
        if self._space:
            self._parts.append(Part(self._space_kind, self._space))
        parts, self._parts = self._parts, []
        return parts

    # What the regions say.

    def opened(self, field: Any, opening: str, captures: dict[str, str]) -> None:
        """A region has begun, with the text `opening`."""
        self._kind, self._space, self._begins = _kind(field), "", False
        if self._kind == "call":
            self._calls_before = self._calls
            self._call = _CallRegion(self, field, opening, captures)

    def said(self, field: Any, text: str) -> None:
        """The region gained `text`."""
        if self._call is not None:
            self._call.push(text)
            return
        kind = _kind(field)
        if kind != self._kind:  # an implicit region has no opening
            self._kind, self._space = kind, ""
        if field.content_args.get("strip", True):
            self._add(kind, text)
        else:
            self._parts.append(Part(kind, text))

    def closed(self, closing: str) -> None:
        """The region has ended, with the text `closing`. At the very end, space may belong to the text."""
        call, self._call = self._call, None
        self._kind = None
        if not self._ending:
            self._space = ""
        if call is not None:
            call.finish(closing, cut=self._cut)

    # What a region of calls says.

    def add_call(self, name: str, arguments: str, first: bool) -> None:
        """The next piece of a call, the `first` of which begins it."""
        self._calls += first
        self._parts.append(Part("call", arguments, self._calls - 1, name))

    def add_content(self, text: str) -> None:
        """Text that looked like a call."""
        self._add("content", text)

    def convert(self, call: Any) -> Any:
        """A call with arguments of the types that its tool has."""
        return self._regions.convert(call)

    def _add(self, kind: Kind, text: str) -> None:
        """Space around a region is no text of it; space in the middle leaves with the text after it."""
        if self._space:
            text = self._space + text
        elif kind not in self._told and not self._begins:
            text = text.lstrip()
        told = text.rstrip()
        self._space, self._space_kind = text[len(told) :], kind
        if told:
            self._told.add(kind)
            self._parts.append(Part(kind, told))


class _CallRegion:
    """One region of tool calls, as far as it has come. How its calls are written follows from the template.

    In JSON, and where the name stands before the arguments, arguments leave as they come; otherwise when the region has ended.
    """

    def __init__(self, output: OutputParser, field: Any, opening: str, captures: dict[str, str]) -> None:
        self._output = output
        self._field = field
        self._captures = captures
        self._texts = [opening]
        # Anything that looks like a call could be one where no mark says so: only what is offered is.
        self._marked = bool(opening.strip())
        self._scanner: CallScanner | None = None
        self._name = ""
        self._begun = self._refused = False
        name, arguments = _places(field.transform)
        streams = field.content == "json" and not field.content_args
        if streams and name in captures and arguments == "content":
            self._name = captures[name].strip()
            if self._name:
                self._piece(self._name, "", True)
        elif streams and name:
            names, keys = (name.rpartition(".")[2], "name"), (arguments.rpartition(".")[2], *ARGUMENTS)
            self._scanner = CallScanner(self._piece, names=names, arguments=keys)

    def push(self, text: str) -> None:
        """Takes the next text of the region."""
        if self._is_refused():
            self._output.add_content(text)
            return
        self._texts.append(text)
        if self._scanner is not None:
            self._scanner.push(text)
        elif self._name:
            text = text if self._begun else text.lstrip()
            if text:
                self._begun = True
                self._piece(self._name, text, False)
        if self._is_refused():
            self._output.add_content("".join(self._texts))

    def finish(self, closing: str, *, cut: bool) -> None:
        """The region has ended. What is no call leaves as the text that it is."""
        if self._is_refused():
            self._output.add_content(closing)
        elif self._scanner is not None:
            self._scanner.finish(cut=cut)
            if not self._scanner.calls:
                self._output.add_content("".join(self._texts) + closing)
        elif not self._name:
            self._read_whole(closing, cut)
        elif not self._begun and not cut:
            self._piece(self._name, "{}", False)

    def _is_refused(self) -> bool:
        return self._refused

    def _piece(self, name: str, arguments: str, first: bool) -> None:
        if first and not self._marked and all(tool.name != name for tool in self._output.tools):
            self._refused = True
        if not self._refused:
            self._output.add_call(name, arguments, first)

    def _read_whole(self, closing: str, cut: bool) -> None:
        value: Any = None
        with suppress(
            Exception
        ):  # the content parsers and the transforms of a model raise whatever they meet
            body = "".join(self._texts[1:])
            value = self._output.convert(process_field(body, self._field, self._captures))
        calls = list(_functions(value))
        if not calls:
            self._output.add_content("".join(self._texts) + closing)
        for name, arguments in calls:
            self._piece(name, "", True)
            # A call that was cut must not look complete.
            self._piece(name, arguments[:-1] if cut else arguments, False)


class _Regions(ResponseParser):
    """Tells an `OutputParser` of the regions. The original puts a message together, and raises where it can't."""

    def __init__(self, template: ResponseTemplate, prefix: str, output: OutputParser) -> None:
        self._listener = output
        self._told = 0
        tools: list[Any] = [
            {"function": {"name": tool.name, "parameters": tool.parameters}} for tool in output.tools
        ]
        super().__init__(template, prefix=prefix, tools=tools)

    def go_on(self, text: str, *, last: bool = False) -> None:
        """Takes the next text."""
        if self._pos > _MAX_READ_CHARACTERS:
            # Never the whole: anchors of a pattern must not take the middle for the beginning.
            self._buffer = self._buffer[self._pos - _LOOK_BEHIND_CHARACTERS :]
            self._told = self._pos = _LOOK_BEHIND_CHARACTERS
        self._buffer += text
        self._process([], eos=last)

    def convert(self, call: Any) -> Any:
        return self._coerce_tool_calls(call) if self._tool_params else call

    def _accumulate(self, events: list[dict[str, Any]], text: str) -> None:
        self._told = self._pos + len(text)
        if text and self._current is not None:
            self._opened = True
            self._listener.said(self._spec.fields[self._current], text)

    def _open_explicit(self, events: list[dict[str, Any]], field: Any, m: Any) -> None:
        super()._open_explicit(events, field, m)
        self._told = self._pos
        self._listener.opened(field, m.group(), self._captures)

    def _close_current(self, events: list[dict[str, Any]]) -> None:
        if self._current is not None and self._opened:
            self._listener.closed(self._buffer[self._told : self._pos])
        self._told = self._pos
        self._reset_to_implicit()


def _kind(field: Any) -> Kind:
    if field.name == CALLS_FIELD:
        return "call"
    return "reasoning" if field.name in REASONING_FIELDS else "content"


def _places(transform: Any) -> tuple[str, str]:
    """Where a transform takes the name and the arguments of a call from; "" where that is no single place."""
    function = transform.get("function") if isinstance(transform, dict) else None
    if function == "{content}":
        return "content.name", "content.arguments"
    if not isinstance(function, dict):
        return "", ""
    places = [function.get("name"), function.get("arguments")]
    if not all(isinstance(place, str) and place[:1] == "{" for place in places):
        return "", ""
    return str(places[0])[1:-1], str(places[1])[1:-1]


def _functions(value: Any) -> Iterator[tuple[str, str]]:
    """The names and the arguments, as JSON, of the calls in what a template makes of a region."""
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(function, dict) and isinstance(name, str) and name.strip():
            arguments = function.get("arguments", {})
            written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            yield encodable(name.strip()), encodable(written)
