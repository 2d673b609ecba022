"""The models that are configured here, by their names."""

from __future__ import annotations

from collections.abc import Mapping

from app.errors import ModelNotFound
from app.model import Model
from app.ports import ModelCard


class Models:
    """A lookup whose failures are errors for clients."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    @property
    def ready(self) -> bool:
        """Whether a stream of every model could start."""
        return all(model.ready for model in self._models.values())

    @property
    def sequences(self) -> int:
        """How many run in this process, of all models."""
        return sum(model.admission.sequences for model in self._models.values())

    def named(self, name: str) -> Model:
        """Raises `ModelNotFound`."""
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(
                f"The model {name!r} does not exist. GET /v1/models lists those that do.", param="model"
            )
        return model

    async def loaded(self, name: str) -> Model:
        """The model, when its card is known. Raises `ModelNotFound` and `GeneratorUnavailable`."""
        model = self.named(name)
        await model.load()
        return model

    async def load(self) -> None:
        """Fetches the cards of all models. Raises `GeneratorUnavailable`."""
        for model in self._models.values():
            await model.load()

    def cards(self) -> list[ModelCard]:
        """The cards that are known."""
        return [card for model in self._models.values() if (card := model.shown_card) is not None]

    def card(self, name: str) -> ModelCard:
        """Raises `ModelNotFound`, also while the card is not known."""
        card = self.named(name).shown_card
        if card is None:
            raise ModelNotFound(f"The model {name} is not ready yet.", param="model")
        return card
