"""What one client has got of a stream, over all of its connections."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

Frame = dict[str, Any]
"""A frame as its JSON, or as much of it as a protocol carries."""
TERMINAL = ("end", "error")


@dataclass
class Record:
    """`came_s`: when each frame came (`time.monotonic`). `cut`: the connection broke, and the protocol has no way to go on."""

    frames: list[Frame] = field(default_factory=list)
    came_s: list[float] = field(default_factory=list)
    connections: int = 0
    stream: str | None = None
    cut: bool = False

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
    def logprobs(self) -> dict[int, list[Any]]:
        """By choice, of the deltas that carry them."""
        found: dict[int, list[Any]] = {}
        for frame in self.frames:
            if frame["type"] == "delta" and frame.get("logprobs") is not None:
                found.setdefault(frame["index"], []).extend(frame["logprobs"])
        return found

    def longest_gap_s(self, begin_s: float, end_s: float) -> float | None:
        """The longest time without a frame that touches the time between two moments; None if the stream did not run then."""
        gaps = [
            later - earlier
            for earlier, later in zip(self.came_s, self.came_s[1:], strict=False)
            if earlier <= end_s and later >= begin_s
        ]
        return max(gaps, default=None)
