"""A TCP proxy that cuts connections in mid-stream, and serves the page whose scripts read through it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.integration.cluster import free_ports

_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class CuttingProxy:
    """Passes one request a connection on to `upstream`. The first connections for each path get so many bytes of their
    response as `cuts_after_bytes` says and are reset then; later ones are left alone.

    `statuses`: of every response so far, by the path. `pages` are the files that it answers by itself, by their path.
    """

    def __init__(
        self, upstream: str, pages: dict[str, Path], cuts_after_bytes: Sequence[int], port: int | None = None
    ) -> None:
        address = urlsplit(upstream)
        self._upstream = (address.hostname, address.port)
        self._pages = pages
        self._cuts_after_bytes = cuts_after_bytes
        self._connections: set[asyncio.Task[None]] = set()
        self.statuses: dict[str, list[int]] = defaultdict(list)
        self._port = free_ports(1)[0] if port is None else port
        self.origin = f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode().partition("?")[0]
                if path in self._pages:
                    writer.write(_page(self._pages[path]))
                    await writer.drain()
                else:
                    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
                    body = await reader.readexactly(int(length[1])) if length else b""
                    await self._pass_on(head, body, path, writer)
        finally:
            writer.close()

    async def _pass_on(self, head: bytes, body: bytes, path: str, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        try:
            up_writer.write(_with_close(head) + body)
            number = len(self.statuses[path])
            cuts = self._cuts_after_bytes
            rest = cuts[number] if number < len(cuts) else None
            while data := await up_reader.read(65536):
                if len(self.statuses[path]) == number:
                    self.statuses[path].append(int(data.split(b" ", 2)[1]))
                if rest is not None:
                    data = data[:rest]
                    rest -= len(data)
                writer.write(data)
                await writer.drain()
                if rest == 0:
                    return
        finally:
            up_writer.close()


def _page(path: Path) -> bytes:
    content = path.read_bytes()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {_TYPES[path.suffix]}\r\ncontent-length: {len(content)}\r\nconnection: close"
    return head.encode() + b"\r\n\r\n" + content


def _with_close(head: bytes) -> bytes:
    """The head of a request after whose answer the server closes the connection."""
    first, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in fields if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([first, *kept, b"Connection: close", b"", b""])
