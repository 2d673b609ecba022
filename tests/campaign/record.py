"""What one client has got of a stream, over all of its connections."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Frame = dict[str, Any]
"""A frame as its JSON, or as much of it as a protocol carries."""
TERMINAL = ("end", "error")


@dataclass
class Record:
    """`came_s` and `connected_s`: when each frame came and each connection was begun (`time.monotonic`). `cut`: the connection
    broke, and the protocol has no way to go on, or the server has forgotten the stream. `edited`: the edit was sent.
    """

    frames: list[Frame] = field(default_factory=list)
    came_s: list[float] = field(default_factory=list)
    connected_s: list[float] = field(default_factory=list)
    stream: str | None = None
    cut: bool = False
    edited: bool = False

    def connect(self) -> None:
        """A connection is about to be made."""
        self.connected_s.append(time.monotonic())

    def take(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.came_s.append(time.monotonic())
        if frame["type"] == "start":
            self.stream = frame["stream"]

    @property
    def cursor(self) -> str | None:
        return self.frames[-1].get("cursor") if self.frames else None

    @property
    def tokens(self) -> int:
        return sum(map(int, (self.cursor or "0").split(".")))

    @property
    def ended(self) -> bool:
        return bool(self.frames) and self.frames[-1]["type"] in TERMINAL

    @property
    def texts(self) -> dict[int, str]:
        """By choice."""
        texts: dict[int, str] = {}
        for frame in self.frames:
            if frame["type"] == "delta":
                texts[frame["index"]] = texts.get(frame["index"], "") + frame["text"]
        return texts

    @property
    def token_ids(self) -> list[int]:
        """Of a stream with one choice that was asked for them."""
        return [token for frame in self.frames if frame["type"] == "delta" for token in frame["token_ids"]]

    @property
    def steered(self) -> list[Frame]:
        """The deltas whose text was put in by the client."""
        return [frame for frame in self.frames if frame.get("steered")]

    @property
    def logprobs(self) -> dict[int, list[Any]]:
        """By choice, of the deltas that carry them."""
        found: dict[int, list[Any]] = {}
        for frame in self.frames:
            if frame["type"] == "delta" and frame.get("logprobs") is not None:
                found.setdefault(frame["index"], []).extend(frame["logprobs"])
        return found

    def longest_gap_s(self, begin_s: float, end_s: float) -> float | None:
        """The longest time without a frame that touches the time between two moments; None if the stream did not run then."""
        first = max(bisect_left(self.came_s, begin_s) - 1, 0)
        came_s = self.came_s[first : bisect_right(self.came_s, end_s) + 1]
        gaps = [later - earlier for earlier, later in pairwise(came_s)]
        return max(gaps, default=None)

    def returned_within(self, begin_s: float, end_s: float) -> bool:
        """Whether a further connection was begun between two moments."""
        return any(begin_s <= at_s <= end_s for at_s in self.connected_s[1:])
