"""One HTTP/1.1 response with server-sent events, parsed by httptools as its bytes arrive.

`ResponseParser` takes whatever a read returned, cut anywhere, and returns the data of every event that is complete.
It does no I/O, keeps no time, and holds at most one incomplete event.
"""

from __future__ import annotations

import httptools

from streaming_inference.event_scanner import EventScanner, EventTooLarge

MAX_ERROR_BYTES = 4_096


class MalformedResponse(ValueError):
    """The bytes are not an HTTP/1.1 response, or one of its events is larger than the event scanner's bound."""


class ResponseParser:
    """One response: its status, whether it is complete, and its events.

    `feed` returns the data of the events that the bytes complete. A response with another status than 200 has no events;
    the beginning of its body is in `error_body`. `complete` becomes true with the last byte of the body, or in `end_of_input`
    when the body ends with the connection.
    """

    def __init__(self) -> None:
        self.status = 0
        self.error_body = b""
        self.complete = False
        self.keep_alive = True
        self._has_framing = False
        self._body: list[bytes] = []
        self._events = EventScanner()
        # httptools calls the methods below whose names begin with `on_`. A piece of the body costs no Python call.
        self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are complete now. Raises `MalformedResponse`; the parser is unusable after that."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise MalformedResponse("the response changes to another protocol") from None
        except httptools.HttpParserError as error:
            # The context is the error of one of the callbacks below.
            raise MalformedResponse(str(error.__context__ or error)) from None
        if not self._body:
            return []
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        if self.status != 200:
            self.error_body = (self.error_body + body)[:MAX_ERROR_BYTES]
            return []
        try:
            return self._events.feed(body)
        except EventTooLarge as error:
            raise MalformedResponse(str(error)) from None

    def end_of_input(self) -> bool:
        """The connection was closed. True when that is a proper end of this response."""
        if self.status and not self._has_framing:
            self.complete = True
        return self.complete

    def on_message_begin(self) -> None:
        if self.complete:
            raise MalformedResponse("bytes follow the end of the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._has_framing = True

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.keep_alive = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self.complete = True
