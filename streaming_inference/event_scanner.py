"""Server-sent events from bytes as they come, after the HTML standard.

Events may be cut anywhere. Only their data is used: the frames of a native stream have all that their ids say.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 1_048_576
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event is larger than the scanner's bound."""


class EventScanner:
    """Server-sent events from body bytes: lines may end in `\\n`, `\\r\\n` or `\\r`. Comments and empty events are dropped.

    Holds one incomplete event, of `max_event_bytes` at most.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._partial = b""
        self._held_return = False
        self._at_start = True

    def feed(self, body: bytes) -> list[bytes]:
        """The data of every event that `body` completes, several `data:` lines joined by newlines.

        Raises `EventTooLarge`; the scanner can't be used after that.
        """
        if self._held_return or b"\r" in body:
            if self._held_return:
                body = b"\r" + body
            # A return at the end may be the first half of `\r\n`: it waits for the next bytes.
            self._held_return = body.endswith(b"\r")
            if self._held_return:
                body = body[:-1]
            body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        text = self._partial + body if self._partial else body
        if self._at_start:
            if len(text) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(text):
                self._partial = text  # perhaps a part of the mark: the rest decides
                return []
            self._at_start = False
            text = text.removeprefix(_BYTE_ORDER_MARK)
        blocks = text.split(b"\n\n")
        self._partial = blocks.pop()
        if len(self._partial) > self._max_event_bytes:
            raise EventTooLarge(f"an event is larger than {self._max_event_bytes} bytes, the maximum")
        return [data for block in blocks if (data := _event_data(block)) is not None]


def _event_data(block: bytes) -> bytes | None:
    start = block.find(b"data:")
    # Nearly every event has one data line, the last. It needs no list of lines.
    alone = start == 0 or (start > 0 and block[start - 1] == 0x0A and b"data\n" not in block[:start])
    if alone and b"\n" not in block[start:]:
        return block[start + 6 :] if block[start + 5 : start + 6] == b" " else block[start + 5 :]
    lines = [line for line in block.split(b"\n") if line == b"data" or line.startswith(b"data:")]
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines) if lines else None
