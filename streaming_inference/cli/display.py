"""An answer on a terminal or in a pipe: its text on stdout, its pace on stderr.

On a terminal the pace has the lowest row, and the text scrolls above it. If stderr is not a terminal, nothing is written
there.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from types import TracebackType
from typing import Self, TextIO

import msgspec

from streaming_inference.frames import Delta, End, Frame

REFRESH_S = 0.1
MIN_ROWS = 3
"""A smaller terminal has no row for the pace."""
# A terminal takes control characters as commands.
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}


class Pace:
    """How fast an answer comes, measured at the client."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s = self._began_s
        self._first_tokens = 0
        self._tokens = 0

    def take(self, frame: Delta) -> None:
        self._last_s = time.monotonic()
        if self._first_s is None:
            self._first_s, self._first_tokens = self._last_s, frame.tokens
        self._tokens += frame.tokens

    def __str__(self) -> str:
        if self._first_s is None:
            return "waiting for the first token"
        words = [f"{self._tokens} tokens"]
        duration_s = self._last_s - self._first_s
        if duration_s > 0 and self._tokens > self._first_tokens:
            words.append(f"{(self._tokens - self._first_tokens) / duration_s:.1f} tokens/s")
        words.append(f"TTFT {1000 * (self._first_s - self._began_s):.0f} ms")
        return ", ".join(words)


class StatusLine:
    """One line on stderr that is rewritten. `with` reserves it and gives it back.

    If the text goes to the same terminal, the lowest row is taken out of the scrolling region.
    """

    def __init__(self, stderr: TextIO, *, text_on_terminal: bool) -> None:
        self._stderr = stderr
        self._live = stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._below_text = text_on_terminal
        self._columns, self._rows = shutil.get_terminal_size()
        self._shown_s = 0.0

    def __enter__(self) -> Self:
        if self._rows < MIN_ROWS:
            self._live = False
        if self._live and self._below_text:
            # A line feed makes room at the bottom; then only the rows above scroll, and the cursor goes back to its text.
            self._write(f"\n\x1b7\x1b[1;{self._rows - 1}r\x1b8\x1b[1A")
        return self

    def show(self, status: object) -> None:
        """Replaces the line, at most once per `REFRESH_S`."""
        now_s = time.monotonic()
        if not self._live or now_s - self._shown_s < REFRESH_S:
            return
        self._shown_s = now_s
        shown = str(status)[: self._columns - 1]
        if self._below_text:
            self._write(f"\x1b7\x1b[{self._rows};1H\x1b[K{shown}\x1b8")
        else:
            self._write(f"\r\x1b[K{shown}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live and self._below_text:
            self._write(f"\x1b7\x1b[r\x1b[{self._rows};1H\x1b[K\x1b8")
        elif self._live:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stderr.write(text)
        self._stderr.flush()


class Display:
    """Shows the frames of one answer, as text or as one JSON object per line. `with` restores the terminal in any case."""

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._on_terminal = sys.stdout.isatty()
        self._pace = Pace()
        self._status = StatusLine(sys.stderr, text_on_terminal=self._on_terminal)
        self._finish = ""
        self._text_ends_line = True

    def __enter__(self) -> Self:
        self._status.__enter__()
        return self

    def show(self, frame: Frame) -> None:
        """Shows the next frame, at once."""
        if isinstance(frame, Delta):
            self._pace.take(frame)
        elif isinstance(frame, End):
            self._finish = frame.choices[0].finish_reason
        if self._as_json:
            self._write(msgspec.json.encode(frame).decode() + "\n")
        elif isinstance(frame, Delta) and frame.index == 0 and frame.text:
            self._write(frame.text.translate(_CONTROLS) if self._on_terminal else frame.text)
        self._status.show(self._pace)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.__exit__(kind, error, trace)
        if not self._text_ends_line and (self._on_terminal or kind is None):
            self._write("\n")
        if sys.stderr.isatty():
            ending = self._finish or ("interrupted" if kind is not None else "")
            sys.stderr.write(f"[{self._pace}{', ' if ending else ''}{ending}]\n")
            sys.stderr.flush()

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._text_ends_line = text.endswith("\n")
