"""A link to something in the test's own process."""

from __future__ import annotations

from collections import deque

from deployments.links.server import Handler


class LocalLink:
    """Implements `deployments.links.link.Link` over a handler. Each of `failures` is raised by one call instead of making it."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.failures: deque[Exception] = deque()

    async def call(self, request: bytes, timeout_s: float) -> bytes:
        if self.failures:
            raise self.failures.popleft()
        return await self._handler(request)
