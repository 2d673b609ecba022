"""The frames that a client has read, and the proof that they are complete: none missing, none repeated, the server's text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from streaming_inference.choice_fold import ChoiceFold
from streaming_inference.errors import GenerationFailed, ProtocolError, TextMismatch
from streaming_inference.frames import (
    Delta,
    End,
    Error,
    FinishReason,
    Frame,
    Logprob,
    Message,
    Start,
    Timings,
    Usage,
)

MAX_CURSOR_LENGTH = 256


@dataclass(frozen=True)
class ChoiceResult:
    """One choice. `text` and the tokens begin where reading began.

    `message`: the whole, with reasoning and tool calls, if the server parses the model's output for them.
    """

    index: int
    text: str
    finish_reason: FinishReason
    stop_reason: str | int | None
    token_ids: list[int] | None
    logprobs: list[Logprob] | None
    message: Message | None = None


@dataclass(frozen=True)
class Result:
    """A stream that has ended. `start` is None if it was read from a cursor on.

    `verified`: the texts are complete, and have the hashes that the server sent.
    """

    stream: str
    start: Start | None
    choices: list[ChoiceResult]
    usage: Usage
    timings: Timings
    cursor: str
    verified: bool

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """How the first choice ended."""
        return self.choices[0].finish_reason


class Transcript:
    """Takes the frames of one stream, over any number of connections.

    `cursor` is where the next frame must go on: None before the start frame. With `after` reading begins after that cursor,
    and the text up to it is not checked; raises `ValueError` if it is not a cursor.
    """

    def __init__(self, after: str | None = None) -> None:
        self.start: Start | None = None
        self.end: End | None = None
        self.error: Error | None = None
        self._counts = None if after is None else _parse(after)
        self._whole = not any(self._counts or ())
        self._choices: dict[int, ChoiceFold] = {}

    @property
    def cursor(self) -> str | None:
        return None if self._counts is None else ".".join(map(str, self._counts))

    @property
    def ended(self) -> bool:
        """Whether the terminal frame has come."""
        return self.end is not None or self.error is not None

    def take(self, frame: Frame) -> None:
        """Takes the next frame. Raises `ProtocolError` if it can't follow, and `TextMismatch` at the end."""
        if self.ended:
            raise ProtocolError("A frame came after the end of the stream.")
        if isinstance(frame, Error):
            self.error = frame
        elif isinstance(frame, Start):
            if self._counts is not None:
                raise ProtocolError("A second start frame came.")
            self.start = frame
            self._counts = _counts(frame.cursor)
        elif self._counts is None:
            kind = type(frame).__name__.lower()
            raise ProtocolError(
                f"The stream began with a frame of type {kind}; the first frame is start or error."
            )
        elif isinstance(frame, Delta):
            self._take_delta(frame, self._counts)
        else:
            self._take_end(frame, self._counts)

    def text(self, index: int = 0) -> str:
        """The text of one choice so far."""
        choice = self._choices.get(index)
        return "" if choice is None else choice.text

    def result(self, stream_id: str) -> Result:
        """The whole. Raises `GenerationFailed` if the stream ended with an error."""
        if self.error is not None:
            raise GenerationFailed(self.error.error)
        if self.end is None:
            raise ValueError("the stream has not ended; a result needs its end frame")
        end = self.end
        choices = []
        for ended in end.choices:
            fold = self._choices.get(ended.index) or ChoiceFold()
            choices.append(
                ChoiceResult(
                    ended.index,
                    fold.text,
                    ended.finish_reason,
                    ended.stop_reason,
                    fold.token_ids,
                    fold.logprobs,
                    ended.message,
                )
            )
        return Result(stream_id, self.start, choices, end.usage, end.timings, end.cursor, self._whole)

    def _take_delta(self, frame: Delta, counts: list[int]) -> None:
        after = _counts(frame.cursor)
        if not 0 <= frame.index < len(after):
            raise ProtocolError(f"The cursor {frame.cursor} has no choice {frame.index}.")
        before = [count - frame.tokens * (index == frame.index) for index, count in enumerate(after)]
        if before != _widened(counts, len(after)):
            raise ProtocolError(
                f"Tokens are missing or repeated: after {self.cursor} came {frame.tokens} tokens of choice {frame.index} "
                f"up to {frame.cursor}."
            )
        self._counts = after
        self._choices.setdefault(frame.index, ChoiceFold()).add(frame)

    def _take_end(self, frame: End, counts: list[int]) -> None:
        last = _counts(frame.cursor)
        known = _widened(counts, len(last))
        indices = [choice.index for choice in frame.choices]
        if len(known) != len(last) or indices != list(range(len(frame.text_sha256))) or not indices:
            raise ProtocolError("The end frame does not have the choices of the frames before it.")
        # The last tokens may have no text: only the end frame counts them.
        if any(count > final for count, final in zip(known, last, strict=True)):
            raise ProtocolError(f"The stream ends at {frame.cursor}, before {self.cursor}.")
        if self._whole:
            for index, expected in enumerate(frame.text_sha256):
                text = self.text(index).encode("utf-8", "surrogatepass")
                if hashlib.sha256(text).hexdigest() != expected:
                    raise TextMismatch(index)
        self._counts = last
        self.end = frame


def _counts(cursor: str) -> list[int]:
    try:
        return _parse(cursor)
    except ValueError as error:
        raise ProtocolError(f"The server sent a wrong cursor: {error}.") from None


def _parse(cursor: str) -> list[int]:
    parts = cursor[:MAX_CURSOR_LENGTH].split(".")
    if len(cursor) > MAX_CURSOR_LENGTH or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(
            f"{cursor[:MAX_CURSOR_LENGTH]!r} is not a cursor; a cursor is a number, or several joined by dots"
        )
    return [int(part) for part in parts]


def _widened(counts: list[int], choices: int) -> list[int]:
    """The cursor of the start is "0" for any number of choices."""
    return [0] * choices if counts == [0] else counts
