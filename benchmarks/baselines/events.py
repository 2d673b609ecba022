"""The wire format of the baselines: one event of text for each token, then `[DONE]`."""

from __future__ import annotations

from collections.abc import AsyncIterator

MEDIA_TYPE = "text/event-stream"


async def text_events(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    """Each piece as an event, then the end."""
    async for piece in pieces:
        yield f"data: {piece}\n\n"
    yield "data: [DONE]\n\n"
