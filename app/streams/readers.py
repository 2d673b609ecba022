"""The readers of one stream in this process, and the backpressure that they put on its generation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.errors import draining
from app.streams.cursor import parse_cursor
from app.streams.reader import Reader

if TYPE_CHECKING:
    from app.streams.stream import Stream


class Readers:
    """Tells every reader what is new, and pauses generation when even the foremost has `window_tokens` tokens to take.

    `on_left` is called when a reader has left. `paused`: generation waits for a reader. `are_cut_off`: there are none any more,
    and none can come, because this process will not know how the stream goes on.

    For the `Audience`: `visits` is how many readers there ever were, `counted` how many the stream store counts here, and
    `expected` says whether one of those has not come yet.
    """

    def __init__(self, stream: Stream, *, window_tokens: int, on_left: Callable[[Stream], None]) -> None:
        self.paused = False
        self.are_cut_off = False
        self.visits = self.counted = 0
        self.expected = False
        self._stream = stream
        self._window_tokens = window_tokens
        self._on_left = on_left
        self._readers: list[Reader] = []
        self._telling_soon = False

    def __len__(self) -> int:
        return len(self._readers)

    def join(
        self, after: str | None = None, *, ahead_tokens: int = 0, window_tokens: int | None = None
    ) -> Reader:
        """A reader from the start, or after the cursor `after`, which may be up to `ahead_tokens` beyond the stream.

        With `window_tokens` (at least 1) it takes at most that many tokens beyond those that are acknowledged. Raises
        `InvalidCursor`, and `Draining` after `cut_off`. The `Audience` says how many readers a stream may have.
        """
        stream = self._stream
        if self.are_cut_off and stream.ending is None:
            raise draining()
        positions = [0] * len(stream.choices) if after is None else parse_cursor(after, len(stream.choices))
        reader = Reader(
            stream,
            positions,
            resumed=after is not None,
            ahead_tokens=ahead_tokens,
            window_tokens=window_tokens,
        )
        self._readers.append(reader)
        self.visits += 1
        return reader

    def leave(self, reader: Reader) -> None:
        """`reader` takes nothing more. Idempotent."""
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        if self._readers:
            self.tell()
        else:
            self.progressed()
        self._on_left(self._stream)

    def cut_off(self) -> None:
        """Cuts off the readers of a stream that has not ended."""
        if self._stream.ending is None:
            self.are_cut_off = True
            for reader in tuple(self._readers):
                reader.cut_off()

    def tell(self) -> None:
        """Tells the readers that there is something new.

        With one choice at once, with several when all batches that arrived together have been fed.
        """
        if len(self._stream.choices) == 1:
            self._tell_now()
        elif not self._telling_soon:
            self._telling_soon = True
            asyncio.get_running_loop().call_soon(self._tell_now)

    def progressed(self) -> None:
        """A reader has taken or acknowledged frames: generation goes on if it had paused for that."""
        if self.paused and self._backlog() <= self._window_tokens // 2:
            self.paused = False
            if self._stream.generation is not None:
                self._stream.generation.resume()

    def _tell_now(self) -> None:
        self._telling_soon = False
        self._call()
        if not self.paused and self._stream.ending is None and self._backlog() > self._window_tokens:
            self.paused = True
            if self._stream.generation is not None:
                self._stream.generation.pause()
            # Perhaps they only lack text: now that generation waits for them, they take the tokens without.
            self._call()

    def _call(self) -> None:
        readers = self._readers
        for reader in readers if len(readers) == 1 else tuple(readers):
            if reader.on_ready is not None and (reader.window is None or reader.may_take):
                reader.on_ready()

    def _backlog(self) -> float:
        """Tokens that even the foremost reader has not taken. 0 without readers: they may come back to a finished text."""
        readers = self._readers
        if len(readers) == 1:  # nearly always, and asked for every token
            return readers[0].backlog()
        return min((reader.backlog() for reader in readers), default=0)
