"""A model as the service holds it: its settings, its ports, and the card that says what it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import tokenizers

from app.admission import Admission
from app.ports import REASONING_FIELDS, Generator, ModelCard, Tokenizer
from app.settings import ModelSettings
from app.streams.choice import Choice
from app.streams.store import StreamRecord
from app.text.logprobs import LogprobWriter
from app.text.parsed_text import ParsedText
from app.text.pipeline import ChoiceText

if TYPE_CHECKING:
    from app.text.response_format import ResponseFormat


class Model:
    """One configured model. `card` is None until the tokenizer deployment has answered once."""

    def __init__(self, settings: ModelSettings, tokenizer: Tokenizer, generator: Generator) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.generator = generator
        self.admission = Admission()
        self.card: ModelCard | None = None
        self._vocabulary: tokenizers.Tokenizer | None = None
        self._logprobs: LogprobWriter | None = None
        self._format: ResponseFormat | None = None

    async def load(self) -> ModelCard:
        """The card, fetched on the first call. Raises `GeneratorUnavailable`."""
        if self.card is None:
            card = await self.tokenizer.describe()
            self._vocabulary = vocabulary = tokenizers.Tokenizer.from_str(card.tokenizer_json)
            self._logprobs = LogprobWriter(vocabulary)
            if card.response_template is not None:
                self._format = await asyncio.to_thread(_response_format, card.response_template, vocabulary)
            self.card = card
        return self.card

    @property
    def shown_card(self) -> ModelCard | None:
        """The card with what the generators say of themselves, if it is known."""
        if self.card is None:
            return None
        return msgspec.structs.replace(self.card, deterministic=self.generator.deterministic)

    @property
    def ready(self) -> bool:
        """Whether a stream could start."""
        return self.card is not None and self.generator.capacity > 0

    @property
    def vocabulary(self) -> tokenizers.Tokenizer:
        """What makes text of tokens. The model must be loaded."""
        assert self._vocabulary is not None
        return self._vocabulary

    def end_of_reasoning(self, prompt: Sequence[int]) -> str | None:
        """What ends the reasoning in which an answer to the prompt of a chat begins; None if it begins with its content."""
        template = None if self.card is None else self.card.response_template
        if template is None or self._format is None or not self._format.open_reasoning(prompt):
            return None
        ends = [
            template["fields"][name].get("close") for name in REASONING_FIELDS if name in template["fields"]
        ]
        return ends[0] if isinstance(ends[0], str) else ""

    def choices(self, record: StreamRecord) -> list[Choice]:
        """The empty choices of a stream. The model must be loaded."""
        assert self._logprobs is not None
        write_logprobs = self._logprobs.write_all
        return [Choice(text, write_logprobs) for text in self._texts(record)]

    def _texts(self, record: StreamRecord) -> list[ChoiceText]:
        request = record.request
        min_tokens = request.sampling.min_tokens
        if self._format is None or not record.parsed:
            return [
                ChoiceText(self.vocabulary, record.prompt, request.stop, min_tokens) for _ in range(request.n)
            ]
        tools = () if request.tool_choice == "none" else request.tools
        parsers = self._format.parsers(record.prompt, tools, request.n)
        return [
            ParsedText(
                self.vocabulary,
                record.prompt,
                request.stop,
                min_tokens,
                parser=parser,
                marks=self._format.marks,
                name=f"{record.id}:{index}",
                shows_reasoning=request.include_reasoning,
            )
            for index, parser in enumerate(parsers)
        ]


def _response_format(template: dict[str, Any], vocabulary: tokenizers.Tokenizer) -> ResponseFormat:
    """Takes 0.7 s or more the first time, because it imports what parses such templates: call it in a thread."""
    from app.text.response_format import ResponseFormat

    return ResponseFormat(template, vocabulary)
