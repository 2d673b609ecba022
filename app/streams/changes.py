"""What is changed in a stream while it runs: stop strings that are added, text that steers it.

A change is ordered at any time and made when it may be; then it is an edit of every choice that had not ended. The producer
makes it, and the store is told of it with the tokens after it. Until the store knows, the edit is a barrier to readers: if this
process died now, another would go on from what the store has, as if there had been no change.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from app.schema.tokens import Edit, Steering

if TYPE_CHECKING:
    from app.streams.choice import Choice
    from app.streams.store import Change

_FREE = sys.maxsize


class Changes:
    """The changes of one stream. `barrier` is how far readers may go in each choice; None while there is none.

    `waiting` are those that were ordered before their time; `steerings` those that were given to the generator, and have
    not come out of it yet.
    """

    def __init__(self, choices: Sequence[Choice]) -> None:
        self.barrier: list[int] | None = None
        self.waiting: list[Change] = []
        self._choices = choices
        self._from: list[int] | None = None
        self._stored = [0] * len(choices)
        self._steerings: dict[str, Steering] = {}

    @property
    def steerings(self) -> Iterable[Steering]:
        return self._steerings.values()

    @property
    def stops(self) -> set[str]:
        """The stop strings that were added, or are to be."""
        made = {stop for choice in self._choices for edit in choice.edits for stop in edit.stops}
        return made.union(*(change.stops for change in self.waiting))

    def take_over(self, unstored_tokens: int) -> None:
        """All that is here is from the store. Readers of the producer before this one may have seen more, by so many tokens of a
        choice: no change is made before these are made again."""
        self._stored = [len(choice.edits) for choice in self._choices]
        self._from = [len(choice.token_ids) + unstored_tokens for choice in self._choices]

    def give_up(self) -> None:
        """Another process makes the changes from now on."""
        self.waiting.clear()
        self._steerings.clear()

    def order(self, change: Change) -> bool:
        """Takes a change, unless it was taken before. Whether it is new."""
        known = change.id in self._steerings or any(choice.has(change.id) for choice in self._choices)
        if known or any(change.id == other.id for other in self.waiting):
            return False
        self.waiting.append(change)
        return True

    def make(self) -> Iterator[Steering]:
        """Makes the changes that wait, if their time has come. Yields what the generator has to be told."""
        if self._from is not None and any(
            choice.finish_reason is None and len(choice.token_ids) < least
            for choice, least in zip(self._choices, self._from, strict=True)
        ):
            return
        self._from = None
        waiting, self.waiting = self.waiting, []
        for change in waiting:
            if change.token_ids:
                steering = self._steerings[change.id] = Steering(change.id, change.token_ids)
                yield steering
            else:
                for choice in self._choices:
                    choice.add_stops(change.id, change.stops)
                self._raise_barrier()

    def made(self, edits: Iterable[Edit]) -> None:
        """The generator has put out tokens with these edits."""
        for edit in edits:
            self._steerings.pop(edit.id, None)
        self._raise_barrier()

    def recorded(self, edits: Sequence[int]) -> None:
        """The store has so many edits of each choice, and the tokens after them that are here."""
        self._stored = list(edits)
        self._raise_barrier()

    def _raise_barrier(self) -> None:
        """Puts the barrier before the first edit of each choice that is not in the store."""
        first = [
            choice.edits[stored:][:1] for choice, stored in zip(self._choices, self._stored, strict=True)
        ]
        self.barrier = [edit[0].position if edit else _FREE for edit in first] if any(first) else None
