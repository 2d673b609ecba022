"""A link: one TCP connection from one of our processes to another, for calls that do not need Ray Serve.

Serve says which replicas there are and where each listens. `python -m benchmarks.links` measures what a call on a link costs.

A *call* has one answer. A *streaming call* has many items, which arrive one by one, and then an end. Many calls share a
connection. Requests, answers and items are bytes, which the link does not look into.

Cancelling a call cancels its handler in the other process. A broken connection fails all of its calls and cancels their
handlers. Both sides bound the calls that are open and the length of a packet.
"""

from __future__ import annotations

from typing import Protocol


class Link(Protocol):
    """What the client of a deployment needs of its links."""

    async def call(self, request: bytes, timeout_s: float) -> bytes:
        """The answer. Cancelling it cancels the call in the other process.

        Raises `LinkBroken`, `LinkBusy`, `LinkFailed` and `TimeoutError`; `ValueError` for a request that is too long.
        """
        ...


class LinkBroken(ConnectionError):
    """The connection is gone, or the other process violates the protocol. Whether the call was executed is unknown."""


class LinkBusy(Exception):
    """The call was not executed: too many calls are open."""


class LinkFailed(Exception):
    """The handler of the call raised an unexpected exception. Its process has logged it."""
