"""Finding stop strings in a text that comes in pieces, holding back as little as can be.

What is held is exactly the longest suffix of the text that could be the beginning of a stop string; everything before it has
been released. A match never leaves. The stop string that is completed first wins; of several that the same character
completes, the longest. Both are properties of the text alone, so pieces may be cut anywhere.

Each stop string is followed by the Knuth-Morris-Pratt automaton: the work is linear in the text, and nothing is computed for
a part of a stop string that the text never reached.
"""

from __future__ import annotations

from collections.abc import Sequence


class _Pattern:
    """One stop string and how much of it the end of the text spells. `state` is always less than its length after `scan`."""

    __slots__ = ("_borders", "state", "string")

    def __init__(self, string: str) -> None:
        self.string = string
        self.state = 0
        # _borders[i] is the length of the longest proper border of string[: i + 1]; only as far as needed.
        self._borders = [0]

    def scan(self, text: str, armed: bool) -> int:
        """Goes on over `text`. Returns the index after the first completed match, -1 when there is none.

        Not `armed`, matches count for nothing, and the scan goes on after them.
        """
        string, borders, state = self.string, self._borders, self.state
        i, end = 0, len(text)
        while i < end:
            if not state:
                i = text.find(string[0], i)
                if i < 0:
                    break
            char = text[i]
            while state and string[state] != char:
                state = borders[state - 1]
            if string[state] == char:
                state += 1
                if state > len(borders):  # the table of borders grows with the longest prefix that was seen
                    border = borders[-1]
                    while border and string[border] != char:
                        border = borders[border - 1]
                    borders.append(border + 1 if string[border] == char else 0)
            i += 1
            if state == len(string):
                state = borders[state - 1]
                if armed:
                    self.state = state
                    return i
        self.state = state
        return -1


class StopMatcher:
    """Lets a text through up to the first stop string. `matched` is that string once it is found; nothing leaves after it.

    `watching` says whether there is any stop string; while there is none, all text passes unchanged.
    """

    __slots__ = ("_first_chars", "_patterns", "held", "matched", "watching")

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises `ValueError` for an empty stop string."""
        self.matched: str | None = None
        self.held = ""
        self._patterns: list[_Pattern] = []
        self._first_chars: frozenset[str] = frozenset()
        self.add(stops)

    def add(self, stops: Sequence[str]) -> None:
        """Adds stop strings, which must begin in the text that comes from now on. Those already there are left alone.

        Raises `ValueError` for an empty one.
        """
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        known = {pattern.string for pattern in self._patterns}
        self._patterns += [_Pattern(stop) for stop in dict.fromkeys(stops) if stop not in known]
        self.watching = bool(self._patterns)
        self._first_chars = frozenset(pattern.string[0] for pattern in self._patterns)

    def push(self, text: str, armed: bool = True) -> str:
        """The text that may leave now. On a match, the text before it and not released yet; after it, nothing.

        A match counts when its last character comes in an `armed` call, wherever it began. Without `armed`, stop strings pass
        like any text, except for the end of it that could begin another.
        """
        if self.matched is not None:
            return ""
        if not self.held and self._first_chars.isdisjoint(text):
            return text
        match_end, longest = -1, ""
        for pattern in self._patterns:
            end = pattern.scan(text, armed)
            if end < 0:
                continue
            if match_end < 0 or end < match_end or (end == match_end and len(pattern.string) > len(longest)):
                match_end, longest = end, pattern.string
        offset, text = len(self.held), self.held + text
        if match_end >= 0:
            self.matched, self.held = longest, ""
            return text[: offset + match_end - len(longest)]
        kept = max(pattern.state for pattern in self._patterns)
        self.held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def flush(self) -> str:
        """What is held, released because the text has ended. Looking for stop strings begins again after it."""
        released, self.held = self.held, ""
        for pattern in self._patterns:
            pattern.state = 0
        return released
