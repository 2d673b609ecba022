"""A reader's own window: how many tokens it may have that it has not acknowledged yet."""

from __future__ import annotations

from collections.abc import Sequence


class Window:
    """Lets a reader that starts at `counts` take `tokens` tokens, over all choices, beyond those that it acknowledged."""

    def __init__(self, counts: Sequence[int], tokens: int) -> None:
        self._tokens = tokens
        self._acknowledged = list(counts)

    def acknowledge(self, counts: Sequence[int]) -> None:
        """The reader has dealt with `counts` tokens of the choices. What it has acknowledged before stays so."""
        self._acknowledged = [max(pair) for pair in zip(self._acknowledged, counts, strict=True)]

    def room(self, counts: Sequence[int]) -> int:
        """Tokens that may be added to `counts`; 0 or less when the window is shut."""
        return sum(self._acknowledged) + self._tokens - sum(counts)

    def reach(self, positions: Sequence[int], ends: Sequence[int]) -> list[int]:
        """How far towards `ends` a reader at `positions` may go: the room is shared fairly among its choices."""
        room = self.room(positions)
        reached = list(positions)
        ahead = sorted(
            (end - begin, index) for index, (begin, end) in enumerate(zip(positions, ends, strict=True))
        )
        for left, (tokens, index) in zip(range(len(ahead), 0, -1), ahead, strict=True):
            taken = max(min(tokens, room // left), 0)
            reached[index] += taken
            room -= taken
        return reached
