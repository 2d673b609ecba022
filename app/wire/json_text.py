"""JSON that also line-wise readers read whole: U+0085, U+2028 and U+2029 are escaped.

JSON allows them raw in strings, and event streams end lines at none of them, but Python's `splitlines` and much that is built
on it do: such a reader would cut an event in two.
"""

from __future__ import annotations

from json.encoder import encode_basestring

import msgspec

_encode = msgspec.json.Encoder().encode


def json_string(text: str) -> str:
    """`text` as a JSON string."""
    written = encode_basestring(text)
    if written.isascii():  # nearly always
        return written
    return written.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def json_bytes(value: object) -> bytes:
    """`value` as JSON."""
    written = _encode(value)
    if written.isascii():
        return written
    return (
        written.replace(b"\xc2\x85", b"\\u0085")
        .replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
    )
