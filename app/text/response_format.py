"""How one model writes reasoning and tool calls: makes the parsers of its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from app.schema.tools import Tool
from app.text.output_parser import OutputParser, load_template

FIRST_TAIL_TOKENS = 64
TAIL_GROWTH = 16


class ResponseFormat:
    """From the `response_template` of a model, which must be valid, and its tokenizer.

    `marks`: the special tokens that the template knows by name. They are no text, but the parser must see them.
    """

    def __init__(self, response_template: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        written = dict(response_template)
        self._tokenizer = tokenizer
        self._template = load_template(written, tools=True)
        self._template_without_tools = load_template(written, tools=False)
        # Names in a pattern have backslashes.
        known = json.dumps(written["fields"], ensure_ascii=False).replace("\\", "")
        self.marks = {
            token_id: token.content
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special and token.content in known
        }

    def parsers(self, prompt: Sequence[int], tools: Sequence[Tool], count: int) -> list[OutputParser]:
        """Parsers of `count` outputs to `prompt`. Without `tools`, calls are content."""
        template = self._template if tools else self._template_without_tools
        prefix = self._prefix(prompt)
        return [OutputParser(template, prefix, tools) for _ in range(count)]

    def open_reasoning(self, prompt: Sequence[int]) -> bool:
        """Whether an output to `prompt` begins inside reasoning."""
        return OutputParser(self._template_without_tools, self._prefix(prompt), ()).in_reasoning

    def _prefix(self, prompt: Sequence[int]) -> str:
        """The end of the prompt from its last message on; without one, the mark of a region if the prompt ends with it."""
        tail, text = FIRST_TAIL_TOKENS, ""
        while tail < len(prompt) * TAIL_GROWTH:  # once more when `tail` is all of it
            text = self._tokenizer.decode(list(prompt[-tail:]), skip_special_tokens=False)
            if self._template.start_anchor_re.search(text):
                return text
            tail *= TAIL_GROWTH
        literals = [
            literal for field in self._template.fields.values() for literal in field.open_literals or ()
        ]
        ends = [literal for literal in literals if text.rstrip().endswith(literal.rstrip())]
        return ends[0] if ends else ""
