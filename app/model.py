"""A model as the service holds it: its settings, its ports, and the card that says what it is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import tokenizers

from app.admission import Admission
from app.ports import Generator, ModelCard, Tokenizer
from app.schema.requests import GenerationRequest
from app.settings import ModelSettings
from app.streams.choice import Choice
from app.text.logprobs import LogprobWriter
from app.text.pipeline import ChoiceText


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

    async def load(self) -> ModelCard:
        """The card, fetched on the first call. Raises `GeneratorUnavailable`."""
        if self.card is None:
            card = await self.tokenizer.describe()
            self._vocabulary = tokenizers.Tokenizer.from_str(card.tokenizer_json)
            self._logprobs = LogprobWriter(self._vocabulary)
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

    def choices(self, request: GenerationRequest, prompt: Sequence[int]) -> list[Choice]:
        """The empty choices of a stream. The model must be loaded."""
        assert self._logprobs is not None
        write_logprobs = self._logprobs.write_all
        return [
            Choice(
                ChoiceText(self.vocabulary, prompt, request.stop, request.sampling.min_tokens),
                write_logprobs,
            )
            for _ in range(request.n)
        ]
