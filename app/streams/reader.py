"""A reader: follows one stream from a cursor and takes what is ready, coalesced, as frames.

What a reader has not taken stays in the stream as tokens, so a reader that is slow costs no memory of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from app.errors import InvalidCursor
from app.schema.frames import Delta, Frame
from app.streams.cursor import check_reached, format_cursor, parse_cursor
from app.streams.frame_source import FrameSource
from app.streams.window import Window

if TYPE_CHECKING:
    from app.streams.choice import Choice
    from app.streams.stream import Stream


class Reader(FrameSource):
    """One follower of a stream.

    With a `window` it takes no more tokens than that allows beyond those that were acknowledged, and hears of no others.
    """

    def __init__(
        self,
        stream: Stream,
        positions: list[int],
        *,
        resumed: bool = False,
        ahead_tokens: int = 0,
        window_tokens: int | None = None,
    ) -> None:
        check_reached(positions, stream.counts, ahead_tokens=ahead_tokens)
        super().__init__(stream.id)
        self.stream = stream
        self.window = None if window_tokens is None else Window(positions, window_tokens)
        self._positions = positions
        self._started = resumed
        self._plain = (
            len(positions) == 1
            and window_tokens is None
            and not stream.shows_tokens
            and not stream.choices[0].parsed
        )

    def take(self) -> list[Frame]:
        """The frames that became ready since the last call, each choice's tokens in one delta; the terminal frame once.

        Tokens that released no text wait for company, unless the request asks to see tokens or generation waits for this
        reader.
        """
        stream = self.stream
        if self.ended or self.cut:
            return []
        if self._plain and self._started and stream.ending is None and not stream.readers.paused:
            choice = stream.choices[0]
            if not choice.edits:
                return self._take_text(choice)
        frames: list[Frame] = []
        if not self._started:
            self._started = True
            frames.append(stream.start)
        barrier = stream.changes.barrier
        # How far this reader may go in each choice: up to a change that the store does not have yet, and within its window.
        ends: list[int] | None = None
        lonely = stream.shows_tokens or stream.readers.paused
        if barrier is not None or self.window is not None:
            ends = self._all_shown()
            if barrier is not None:
                ends = [min(pair) for pair in zip(ends, barrier, strict=True)]
            if self.window is not None:
                ends = self.window.reach(self._positions, ends)
                lonely = lonely or self.window.room(ends) <= 0
        for index, choice in enumerate(stream.choices):
            begin, end = self._positions[index], self._shown(choice) if ends is None else ends[index]
            if begin >= end:
                continue
            if choice.edits or choice.parsed:
                # Steered tokens have deltas of their own, and so have reasoning and tool calls.
                for first, last, steered in choice.runs(begin, end):
                    text = choice.text(first, last)
                    said = text or choice.reasoning(first, last) or choice.tool_call(first, last)
                    if said or lonely or steered or last < end:
                        frames.append(self._delta(index, first, last, text, steered))
                continue
            text = choice.text(begin, end)
            if text or lonely:
                frames.append(self._delta(index, begin, end, text))
        if stream.ending is not None and barrier is None and (ends is None or self._shows_all(ends)):
            self.ended = True
            frames.append(stream.ending)
        if stream.readers.paused:
            stream.readers.progressed()
        return frames

    def _take_text(self, choice: Choice) -> list[Frame]:
        """`take` as it is for nearly every token: one choice, nothing but its text, no change, no ending."""
        begin, end = self._positions[0], len(choice.token_ids) - choice.silent_end
        text = choice.text(begin, end) if begin < end else ""
        if not text:
            return []
        self._positions[0] = end
        return [Delta(str(end), 0, text, end - begin)]

    def acknowledge(self, cursor: str) -> None:
        """Moves the window on to `cursor`; one from before the last acknowledged changes nothing.

        Raises `InvalidCursor` when it is no cursor of the stream or beyond what was taken. `on_ready` may be called.
        """
        counts = parse_cursor(cursor, len(self._positions))
        taken = self.stream.counts if self.ended else self._positions
        if any(count > most for count, most in zip(counts, taken, strict=True)):
            raise InvalidCursor(
                f"The cursor {cursor} is beyond what was sent, which is {format_cursor(taken)}.",
                param="cursor",
            )
        if self.window is None:
            return
        self.window.acknowledge(counts)
        if self.on_ready is not None and self.may_take:
            self.on_ready()
        if self.stream.readers.paused:
            self.stream.readers.progressed()

    @property
    def may_take(self) -> bool:
        """Whether the window lets this reader take what comes next."""
        window, stream = self.window, self.stream
        if window is None or window.room(self._positions) > 0:
            return True
        return stream.ending is not None and self._shows_all(self._positions)

    def backlog(self) -> float:
        """Tokens of the stream that this reader has not taken; infinite when they fill its window."""
        if self.ended:
            return 0
        choices = self.stream.choices
        if self.window is not None and self.window.room(self.stream.counts) <= 0:
            return math.inf
        if len(choices) == 1:
            return len(choices[0].token_ids) - self._positions[0]
        return sum(len(choice.token_ids) - choice.silent_end for choice in choices) - sum(self._positions)

    def piece_lengths(self, index: int, begin: int, end: int) -> list[int]:
        """How many characters each of the tokens from `begin` to before `end` of choice `index` released."""
        return self.stream.choices[index].piece_lengths(begin, end)

    @property
    def cursor(self) -> str:
        """Of the last delta that was taken."""
        return format_cursor(self._positions)

    def cut_off(self) -> None:
        """Gives this reader nothing more."""
        self.cut = True
        if self.on_ready is not None:
            self.on_ready()

    def close(self) -> None:
        """Takes nothing more. The stream's `on_disconnect` decides what becomes of it when this was its last reader."""
        self.on_ready = None
        self.stream.readers.leave(self)

    def _shown(self, choice: Choice) -> int:
        """How far deltas go. A token without text that ended the choice is left to the terminal frame."""
        return len(choice.token_ids) - (choice.silent_end and not self.stream.shows_tokens)

    def _all_shown(self) -> list[int]:
        return [self._shown(choice) for choice in self.stream.choices]

    def _shows_all(self, positions: list[int]) -> bool:
        """Whether no delta comes after `positions`."""
        return all(position >= shown for position, shown in zip(positions, self._all_shown(), strict=True))

    def _delta(self, index: int, begin: int, end: int, text: str, steered: bool = False) -> Delta:
        self._positions[index] = end
        cursor = str(end) if len(self._positions) == 1 else format_cursor(self._positions)
        choice = self.stream.choices[index]
        if not self.stream.shows_tokens and not choice.parsed:
            return Delta(cursor, index, text, end - begin, steered=steered)
        request = self.stream.request
        return Delta(
            cursor,
            index,
            text,
            end - begin,
            choice.token_ids[begin:end] if request.return_token_ids else None,
            choice.written_logprobs(begin, end) if request.sampling.logprobs is not None else None,
            steered,
            choice.reasoning(begin, end),
            choice.tool_call(begin, end),
        )
