"""The chat template of one model: what it can show of tools, in which form it wants them, and the text that it makes.

Templates differ in how they take a call's arguments (as an object, as text), the content of a message that has calls (as empty
text, as none) and the ids of calls (some take nine characters only). No model says which; a chat that is rendered with each form
shows it, because what a template does not take is missing from its text, or stops it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
from pydantic_core import from_json

from app.errors import InvalidRequest
from app.schema.requests import Message
from app.schema.tools import Tool, ToolCall
from deployments.tokenizer.tools_as_text import tools_as_text

if TYPE_CHECKING:
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

logger = logging.getLogger(__name__)

RESERVED = {"continue_final_message", "chat_template"}
"""What is no variable of a template, though other servers take it as one."""
SHORT_ID_LENGTH = 9


class CallForm(NamedTuple):
    """How a template takes a message with calls."""

    parsed_arguments: bool
    empty_content: str | None
    short_ids: bool


_FORMS = [CallForm(*form) for form in product((True, False), ("", None), (False, True))]
_USUAL_FORM = _FORMS[0]
_PROBE = Tool(
    name="probe_tool",
    description="probe_description",
    parameters={"type": "object", "properties": {"probe_key": {"type": "string"}}, "required": ["probe_key"]},
)
_PROBE_CALL = ToolCall(
    id="call_0123456789abcdef", name="probe_call", arguments='{"probe_argument": "probe_value"}'
)
_ASKED = Message("user", "probe_question")
_CALLED = (
    _ASKED,
    Message("assistant", "", tool_calls=(_PROBE_CALL,)),
    Message("tool", "probe_result", tool_call_id=_PROBE_CALL.id),
)


def as_it_is(value: Any) -> Any:
    return value


class ChatTemplate:
    """Renders chats. Safe to call from several threads.

    `shows_tools`: whether the model is shown the tools of a request. `shows_calls`: whether it is shown the calls of earlier
    turns and their results. With `may_write_tools` a template that shows neither gets them `as_text`. `source` is the text of the
    template, or of both if there is one for tools.
    """

    def __init__(self, tokenizer: TokenizersBackend, model: str, *, may_write_tools: bool = True) -> None:
        self._tokenizer = tokenizer
        self._model = model
        sources = (
            []
            if tokenizer.chat_template is None
            else [str(tokenizer.get_chat_template()), str(tokenizer.get_chat_template(tools=[]))]
        )
        self.source = "".join(dict.fromkeys(sources))
        self._sources = sources
        self._form = _USUAL_FORM
        self.shows_tools = self.shows_calls = self.as_text = False
        self._in_system_turn = True
        if sources:
            self._try(may_write_tools)

    def turns(
        self, messages: Sequence[Message], put: Callable[[Any], Any] = as_it_is
    ) -> list[dict[str, Any]]:
        """The messages as the template takes them. `put` is applied to what the client has written.

        Raises `InvalidRequest` for calls and results that the template does not show.
        """
        if not self.shows_calls:
            for place, message in enumerate(messages):
                if message.tool_calls or message.role == "tool":
                    param = f"messages[{place}]" + (".tool_calls" if message.tool_calls else ".role")
                    raise InvalidRequest(
                        f"The chat template of the model {self._model} does not show calls of tools and their results: {param} "
                        "can't be told to it.",
                        param=param,
                    )
        return _turns(messages, self._form, put)

    def render(
        self,
        turns: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        *,
        add_generation_prompt: bool,
    ) -> str:
        """The text of a chat. Raises `InvalidRequest` for what the template refuses and for variables that no client may set."""
        if not self._sources:
            raise InvalidRequest(
                f"The model {self._model} has no chat template; send a prompt.", param="messages"
            )
        if self.as_text:
            turns, tools = tools_as_text(turns, tools or (), in_system_turn=self._in_system_turn), None
        own = {
            **self._tokenizer.special_tokens_map,
            "messages": turns,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        variables = variables or {}
        taken = sorted(variables.keys() & (own.keys() | RESERVED))
        if taken:
            raise InvalidRequest(
                f"chat_template_kwargs can't have {taken[0]}.", param=f"chat_template_kwargs.{taken[0]}"
            )
        from transformers.utils.chat_template_utils import _compile_jinja_template

        try:
            # As `apply_chat_template` does, which would make plain strings of the contents.
            with_tools = tools is not None or any(
                "tool_call_id" in turn or "tool_calls" in turn for turn in turns
            )
            template = _compile_jinja_template(self._sources[1 if with_tools else 0])
            return str(template.render({"documents": None, **variables, **own}))
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            # A template speaks to the user only through `raise_exception`, which is a plain TemplateError.
            reason = f": {error}" if type(error) is jinja2.TemplateError else "."
            raise InvalidRequest(
                f"The model's chat template refuses these messages{reason}", param="messages"
            ) from error

    def _try(self, may_write_tools: bool) -> None:
        """Finds out what the template shows, in which form it takes calls, and where it shows tools as text."""
        offered = tools_of([_PROBE])
        self.shows_tools = all(
            text in self._tried([_ASKED], _USUAL_FORM, offered) for text in (_PROBE.name, "probe_key")
        )
        for form in _FORMS:
            text = self._tried(_CALLED, form, offered if self.shows_tools else None)
            shown = all(
                part in text for part in ("probe_call", "probe_argument", "probe_value", "probe_result")
            )
            # An object that is written as it is, is Python's text and not JSON.
            if shown and "'probe_argument'" not in text:
                self._form, self.shows_calls = form, True
                return
        if self.shows_tools or not may_write_tools:
            return
        self.as_text = True
        for self._in_system_turn in (True, False):  # some have no turn of the system
            if _PROBE.name in self._tried(_CALLED, _USUAL_FORM, offered):
                self.shows_tools = self.shows_calls = True
                return
        self.as_text = False

    def _tried(self, messages: Sequence[Message], form: CallForm, tools: list[dict[str, Any]] | None) -> str:
        try:
            return self.render(_turns(messages, form, as_it_is), tools, add_generation_prompt=True)
        except Exception as error:  # templates are programs of others
            logger.debug("the chat template takes no messages of the form %r: %r", form, error)
            return ""


def tools_of(tools: Sequence[Tool], put: Callable[[Any], Any] = as_it_is) -> list[dict[str, Any]]:
    """Tools as templates take them: as a client of OpenAI writes them, with nothing left out that a template may look for."""
    return [
        {
            "type": "function",
            "function": {
                "name": put(tool.name),
                "description": put(tool.description),
                "parameters": put(
                    tool.parameters
                    if "properties" in tool.parameters
                    else {"type": "object", "properties": {}} | tool.parameters
                ),
            },
        }
        for tool in tools
    ]


def _turns(messages: Sequence[Message], form: CallForm, put: Callable[[Any], Any]) -> list[dict[str, Any]]:
    names: dict[str, str] = {}
    turns = []
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": put(message.content)}
        if message.name is not None:
            turn["name"] = put(message.name)
        if message.reasoning:
            # The names that templates know it by.
            turn["reasoning_content"] = turn["reasoning"] = put(message.reasoning)
            if not (message.tool_calls and message.content):
                turn["thinking"] = put(message.reasoning)  # gpt-oss refuses it beside both
        if message.tool_calls:
            turn["tool_calls"] = [_call(call, form, put) for call in message.tool_calls]
            names |= {call.id: call.name for call in message.tool_calls}
            if not message.content:
                turn["content"] = form.empty_content
        if message.role == "tool":
            call_id = message.tool_call_id or ""
            turn["tool_call_id"] = put(_id(call_id, form))
            # Some templates write the result with its tool's name.
            if message.name is None and call_id in names:
                turn["name"] = put(names[call_id])
        turns.append(turn)
    return turns


def _call(call: ToolCall, form: CallForm, put: Callable[[Any], Any]) -> dict[str, Any]:
    arguments: Any = call.arguments
    if form.parsed_arguments:
        try:
            parsed = from_json(call.arguments or "{}", allow_inf_nan=False)
        except ValueError:
            parsed = None
        if isinstance(parsed, dict):
            arguments = parsed
    return {
        "id": put(_id(call.id, form)),
        "type": "function",
        "function": {"name": put(call.name), "arguments": put(arguments)},
    }


def _id(call_id: str, form: CallForm) -> str:
    """The id, or the end of it: of the letters and digits that a template for Mistral's models takes."""
    if not form.short_ids:
        return call_id
    return re.sub("[^A-Za-z0-9]", "", call_id)[-SHORT_ID_LENGTH:].rjust(SHORT_ID_LENGTH, "0")
