"""The source of tokens of every baseline: ready strings at a set pace, each at its own moment of an absolute schedule.

A late consumer shifts nothing: it gets the tokens that are due at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

MAX_TOKENS = 100_000
# As long as a token of English text is on average.
TOKEN = " word"


async def paced_tokens(tokens: int, first_token_s: float, step_s: float) -> AsyncIterator[str]:
    """`tokens` pieces of text, the first after `first_token_s` seconds, the others `step_s` seconds apart."""
    loop = asyncio.get_running_loop()
    due_s = loop.time() + first_token_s
    for _ in range(min(tokens, MAX_TOKENS)):
        delay_s = due_s - loop.time()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        yield TOKEN
        due_s += step_s
