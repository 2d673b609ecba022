"""Training rows: documents as token ids and labels, packed without cutting any of them.

A row holds whole documents only, for a conversation whose request was cut off would teach the model to
answer what nobody asked. Some conversations follow each other without a new <|bos|>: to the model they
are one long conversation, which is how it learns to answer the last request of many.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from tokenizers import Tokenizer

from deployments.model.training.corpus import Document
from deployments.model.training.tokenizer import BOS, EOS, PAD, ROLES, special_id

IGNORED = -100
_POOL_DOCUMENTS = 128
_MUCH_ROOM = 250
_CHANCE_TO_JOIN = 0.35


@dataclass(frozen=True)
class Encoded:
    """A document as ids, with a label for each id that the model is to predict."""

    ids: list[int]
    labels: list[int]
    chat: bool
    starts_with_user: bool


def encode(document: Document, tokenizer: Tokenizer) -> Encoded:
    bos, eos = special_id(tokenizer, BOS), special_id(tokenizer, EOS)
    if document.plain:
        ids = [bos, *tokenizer.encode(document.plain, add_special_tokens=False).ids, eos]
        return Encoded(ids, [IGNORED, *ids[1:]], chat=False, starts_with_user=False)
    ids, labels = [bos], [IGNORED]
    for message in document.messages:
        turn = [*tokenizer.encode(message.text, add_special_tokens=False).ids, eos]
        ids += [special_id(tokenizer, ROLES[message.role]), *turn]
        labels += [IGNORED, *(turn if message.role == "assistant" else [IGNORED] * len(turn))]
    return Encoded(ids, labels, chat=True, starts_with_user=document.messages[0].role == "user")


class Packer:
    """Fills rows of any length from a stream of documents, the longest that fits first."""

    def __init__(self, documents: Iterator[Document], tokenizer: Tokenizer, seed: int) -> None:
        self._source = (encode(document, tokenizer) for document in documents)
        self._pool: list[Encoded] = []
        self._rng = Random(seed)
        self._pad = special_id(tokenizer, PAD)

    def batch(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and labels, each of shape (rows, length)."""
        filled = [self._row(length) for _ in range(rows)]
        return torch.tensor([ids for ids, _ in filled]), torch.tensor([labels for _, labels in filled])

    def _row(self, length: int) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        after_chat = False
        while (document := self._take(length - len(ids), first=not ids)) is not None:
            join = after_chat and document.starts_with_user and self._rng.random() < _CHANCE_TO_JOIN
            ids += document.ids[join:]
            labels += document.labels[join:]
            after_chat = document.chat
        missing = length - len(ids)
        return ids + [self._pad] * missing, labels + [IGNORED] * missing

    def _take(self, room: int, first: bool) -> Encoded | None:
        """A document that fits: the oldest while there is much room, so that long ones get their turn, then the longest."""
        self._pool += islice(self._source, max(0, _POOL_DOCUMENTS - len(self._pool)))
        fitting = [document for document in self._pool if len(document.ids) <= room]
        while first and not fitting:
            self._pool += islice(self._source, 1)
            fitting = [document for document in self._pool[-1:] if len(document.ids) <= room]
        if not fitting:
            return None
        chosen = (
            fitting[0] if first or room > _MUCH_ROOM else max(fitting, key=lambda document: len(document.ids))
        )
        self._pool.remove(chosen)
        return chosen
