"""What a client has of a stream, and the proof that it has all of it: no gap, no repeat, the text that the server made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from streaming_inference.choice_fold import ChoiceFold
from streaming_inference.errors import GenerationFailed, ProtocolError, TextMismatch
from streaming_inference.frames import Delta, End, Error, FinishReason, Frame, Logprob, Start, Timings, Usage

MAX_CURSOR_LENGTH = 256


@dataclass(frozen=True)
class ChoiceResult:
    """One answer. `text` and the tokens begin where reading began."""

    index: int
    text: str
    finish_reason: FinishReason
    stop_reason: str | int | None
    token_ids: list[int] | None
    logprobs: list[Logprob] | None


@dataclass(frozen=True)
class Result:
    """A stream that has ended. `start` is None when it was read from a cursor on.

    `verified`: the texts are whole, and are what the server made, by their hashes.
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
    """Takes the frames of one stream, over however many connections they come.

    `cursor` is where the next frame must go on: None before the start frame. `after`: what lies behind this cursor is known
    elsewhere, and can't be checked here; raises `ValueError` when it is no cursor.
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
        """The terminal frame is there."""
        return self.end is not None or self.error is not None

    def take(self, frame: Frame) -> None:
        """Takes the next frame. Raises `ProtocolError` when it can't be that, and `TextMismatch` at the end."""
        if self.ended:
            raise ProtocolError("A frame came after the end of the stream.")
        if isinstance(frame, Error):
            self.error = frame
        elif isinstance(frame, Start):
            self._take_start(frame)
        elif self._counts is None:
            raise ProtocolError(f"The stream began with a frame of the type {_type_of(frame)}.")
        elif isinstance(frame, Delta):
            self._take_delta(frame, self._counts)
        else:
            self._take_end(frame, self._counts)

    def text(self, index: int = 0) -> str:
        """The text of one choice so far."""
        choice = self._choices.get(index)
        return "" if choice is None else choice.text

    def result(self, stream_id: str) -> Result:
        """The whole. Raises `GenerationFailed` when the stream ended with an error."""
        if self.error is not None:
            raise GenerationFailed(self.error.error)
        if self.end is None:
            raise ValueError("a stream has a result when its end is there")
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
                )
            )
        return Result(stream_id, self.start, choices, end.usage, end.timings, end.cursor, self._whole)

    def _take_start(self, frame: Start) -> None:
        if self._counts is not None:
            raise ProtocolError("The start of the stream came twice.")
        self.start = frame
        self._counts = _counts(frame.cursor)

    def _take_delta(self, frame: Delta, counts: list[int]) -> None:
        behind = _counts(frame.cursor)
        if not 0 <= frame.index < len(behind):
            raise ProtocolError(f"The cursor {frame.cursor} has no choice {frame.index}.")
        before = [count - frame.tokens * (index == frame.index) for index, count in enumerate(behind)]
        if before != _widened(counts, len(behind)):
            raise ProtocolError(
                f"The stream has a gap or a repetition: behind {self.cursor} came {frame.tokens} tokens of choice "
                f"{frame.index} up to {frame.cursor}."
            )
        self._counts = behind
        self._choices.setdefault(frame.index, ChoiceFold()).add(frame)

    def _take_end(self, frame: End, counts: list[int]) -> None:
        behind = _counts(frame.cursor)
        known = _widened(counts, len(behind))
        indices = [choice.index for choice in frame.choices]
        if len(known) != len(behind) or indices != list(range(len(frame.text_sha256))) or not indices:
            raise ProtocolError("The end of the stream does not fit to what came before it.")
        # The last tokens may have had no text of their own: the end counts them, and no text can hide in them.
        if any(count > last for count, last in zip(known, behind, strict=True)):
            raise ProtocolError(f"The stream ends at {frame.cursor}, before {self.cursor}.")
        if self._whole:
            for index, expected in enumerate(frame.text_sha256):
                if _sha256(self.text(index)) != expected:
                    raise TextMismatch(index)
        self._counts = behind
        self.end = frame


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _counts(cursor: str) -> list[int]:
    try:
        return _parse(cursor)
    except ValueError as error:
        raise ProtocolError(f"The server sent something strange: {error}.") from None


def _parse(cursor: str) -> list[int]:
    parts = cursor[:MAX_CURSOR_LENGTH].split(".")
    if len(cursor) > MAX_CURSOR_LENGTH or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"{cursor[:MAX_CURSOR_LENGTH]!r} is not a cursor")
    return [int(part) for part in parts]


def _widened(counts: list[int], choices: int) -> list[int]:
    """The beginning of a stream is "0", however many choices it has."""
    return [0] * choices if counts == [0] else counts


def _type_of(frame: Frame) -> str:
    return type(frame).__name__.lower()
