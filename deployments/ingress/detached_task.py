"""Tasks outside of the request that starts them.

Serve cancels the tasks of a request's context together with the request. Streams and channels outlive the request that needed
them first.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any


def detached_task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Runs `work` in a task with an empty context."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())
