"""Where a process can be called."""

from __future__ import annotations

import msgspec


class LinkAddress(msgspec.Struct, frozen=True, array_like=True):
    """Host, port and secret of a process that listens. A caller must send the secret first, so only Serve may carry it."""

    host: str
    port: int
    secret: bytes


encode_address = msgspec.msgpack.Encoder().encode
decode_address = msgspec.msgpack.Decoder(LinkAddress).decode
