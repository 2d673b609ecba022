"""A jitter buffer: text that arrives unevenly is played out evenly, with the least delay that this needs.

`Playout` decides and has no clock of its own; `play` drives it. What holds:

- The first text is played at once. Then playing a little slower than text arrives builds the delay up, and playing a little
  faster takes it back.
- The delay is the least one with which nearly all recent arrivals would have come in time: `1 - LATE_SHARE` of them were not
  later. It decays over some seconds, because the causes of delay recur.
- Order is kept, nothing is lost, and after the last arrival the rest is played within `TAIL_S`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from streaming_inference.clock import Clock

WINDOW_ARRIVALS = 64
LATE_SHARE = 0.02
MAX_DELAY_S = 1.0
HALF_LIFE_S = 10.0
SLOWEST = 1.5
"""The ITL is at most this multiple of what the rate asks for, while the delay grows ..."""
FASTEST = 0.75
"""... and at least this multiple, while the delay shrinks."""
TAIL_S = 0.25
MAX_WAITING_PIECES = 4096
# Words, each with the space before it. In scripts without spaces each character is a word.
_WORD = re.compile(
    r"\s*(?:[\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\s\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3]+)"
)


class Piece(NamedTuple):
    """Text, and how many tokens it has."""

    text: str
    tokens: int


class Playout:
    """Says when to play what has arrived. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        """How late text is played, against the earliest time that its rate allows."""
        self._waiting: deque[tuple[str, int, float]] = deque()  # text, its tokens, the tokens up to its end
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=WINDOW_ARRIVALS)  # tokens up to there, time
        self._arrived_tokens = 0
        self._textless_tokens = 0
        self._period_s = 0.0
        self._earliest_s = 0.0
        self._played_s: float | None = None
        self._ending_period_s: float | None = None

    def __len__(self) -> int:
        """How many pieces wait."""
        return len(self._waiting)

    def arrive(self, piece: Piece, now_s: float) -> None:
        """Takes the next piece. One with several tokens is played in as many parts, if its text has words."""
        first, count = self._arrived_tokens, max(1, piece.tokens)
        self._arrived_tokens += count
        if count > 1:
            self._arrivals.append((first + 1.0, now_s))  # the token of the piece that is the latest
        self._arrivals.append((float(self._arrived_tokens), now_s))
        tokens = self._textless_tokens + count
        self._textless_tokens = 0 if piece.text else tokens
        if piece.text:
            parts = _parts(piece.text, tokens)
            share = tokens / len(parts)
            for number, part in enumerate(parts, start=1):
                up_to = first + count * number / len(parts)
                self._waiting.append((part, max(1, round(share)), up_to))
        self._measure(now_s)

    def finish(self) -> None:
        """Nothing more will arrive: the waiting pieces are played within `TAIL_S`."""
        if self._ending_period_s is None:
            tokens = sum(tokens for _, tokens, _ in self._waiting) or 1
            self._ending_period_s = min(self._period_s, TAIL_S / tokens)

    def due_s(self) -> float | None:
        """When the next piece is to be played, perhaps in the past; None when none waits."""
        if not self._waiting:
            return None
        _, tokens, up_to = self._waiting[0]
        if self._played_s is None or not self._period_s:
            return 0.0
        if self._ending_period_s is not None:
            return self._played_s + tokens * self._ending_period_s
        itl_s = tokens * self._period_s
        ideal_s = self._earliest_s + self.delay_s + up_to * self._period_s
        return min(max(ideal_s, self._played_s + FASTEST * itl_s), self._played_s + SLOWEST * itl_s)

    def take(self, now_s: float) -> str:
        """The text of the next piece, played now."""
        text, _, _ = self._waiting.popleft()
        self._played_s = now_s
        return text

    def _measure(self, now_s: float) -> None:
        """Measures the recent rate, the earliest time that it allows, and how late the arrivals were."""
        arrivals = list(self._arrivals)
        if len(arrivals) < 4:
            return
        # Even: pieces with several tokens have two entries each, and like entries must be compared.
        half = len(arrivals) // 4 * 2
        # The middle half of the slopes over half a window: a few late arrivals do not count, and bursts even out.
        slopes_s = sorted(
            (late_s - early_s) / (up_to - before)
            for (before, early_s), (up_to, late_s) in zip(arrivals, arrivals[half:], strict=False)
        )
        outer = len(slopes_s) // 4
        self._period_s = fmean(slopes_s[outer : len(slopes_s) - outer])
        residuals = sorted(at_s - up_to * self._period_s for up_to, at_s in arrivals)
        self._earliest_s = residuals[0]
        index = min(len(residuals) - 1, int((1 - LATE_SHARE) * len(residuals)))
        (_, previous_s), (_, last_s) = arrivals[-2:]
        remembered_s = self.delay_s * 0.5 ** ((last_s - previous_s) / HALF_LIFE_S)
        self.delay_s = min(MAX_DELAY_S, max(residuals[index] - residuals[0], remembered_s))


def _parts(text: str, tokens: int) -> list[str]:
    """`text` in as many parts as it has tokens, or words if these are fewer; joined they are `text`."""
    ends = [match.end() for match in _WORD.finditer(text)] if tokens > 1 else []
    count = min(tokens, len(ends))
    if count < 2:
        return [text]
    cuts = [0, *(ends[len(ends) * number // count - 1] for number in range(1, count)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]


async def play(pieces: AsyncIterator[Piece], clock: Clock) -> AsyncGenerator[str, None]:
    """The text of `pieces`, played out evenly. An error of `pieces` is raised after the text before it is played.

    `pieces` is read ahead by a task, up to `MAX_WAITING_PIECES`; closing this generator ends that task.
    """
    playout = Playout()
    changed = asyncio.Event()

    async def fill() -> None:
        async for piece in pieces:
            playout.arrive(piece, clock.monotonic())
            changed.set()
            while len(playout) >= MAX_WAITING_PIECES:
                changed.clear()
                await changed.wait()

    filling = asyncio.ensure_future(fill())
    filling.add_done_callback(lambda _: changed.set())
    try:
        while len(playout) or not filling.done():
            if filling.done():
                playout.finish()
            due_s = playout.due_s()
            if due_s is None:
                changed.clear()
                await changed.wait()
            elif (wait_s := due_s - clock.monotonic()) > 0:
                await _sleep(clock, wait_s, filling)
            else:
                yield playout.take(clock.monotonic())
                changed.set()
        await filling
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


async def _sleep(clock: Clock, duration_s: float, filling: asyncio.Future[None]) -> None:
    """Sleeps until the time is over or `filling` ends."""
    if filling.done():
        await clock.sleep(duration_s)
        return
    sleeping = asyncio.ensure_future(clock.sleep(duration_s))
    try:
        await asyncio.wait((sleeping, filling), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeping.cancel()
