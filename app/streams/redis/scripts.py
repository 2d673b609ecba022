"""The Lua scripts of the store in Redis: a file for each, after the prelude that all begin with."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError, ResponseError

from app.errors import StoreUnavailable
from app.streams.store import MAX_CHANGES
from app.streams.store_bounds import StoreBounds

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
PRELUDE = "prelude"


class Scripts:
    """The scripts on a server, `by_name`, for streams within `bounds` whose keys begin with `prefix`."""

    def __init__(self, redis: Redis, prefix: str, bounds: StoreBounds, tombstone_s: float) -> None:
        if not re.fullmatch(r"[\w:{}.-]+", prefix):
            raise ValueError(
                f"{prefix!r} is not a prefix for keys: allowed are letters, digits and the characters _:{{}}.-"
            )
        constants = {
            "P": f"'{prefix}'",
            "LEASE": round(bounds.lease_s * 1000),
            "RETENTION": round(bounds.retention_s * 1000),
            "MAX_AGE": round(bounds.max_age_s * 1000),
            "TOMBSTONE": round(tombstone_s * 1000),
            "MAX_STREAMS": bounds.max_streams,
            "MAX_TOKENS": bounds.max_tokens,
            "MAX_CHANGES": MAX_CHANGES,
        }
        files = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.lua")}
        head = [*(f"local {name} = {value}" for name, value in constants.items()), files.pop(PRELUDE)]
        self.by_name: dict[str, AsyncScript] = {
            name: redis.register_script("\n".join([*head, text])) for name, text in files.items()
        }
        self.closed = False

    async def run(self, name: str, *arguments: Any) -> Any:
        """The reply of a script. Raises `StoreUnavailable` when there is none, or an error, and once `closed` is set."""
        if self.closed:
            raise StoreUnavailable("The stream store is closed.")
        try:
            return await self.by_name[name](args=arguments)
        except ResponseError as error:
            # Out of memory or read-only, perhaps; or the script is wrong.
            logger.error("Redis replied to the script %s with an error: %s", name, error)
            raise StoreUnavailable("The stream store replied with an error.", retry_after_s=1) from error
        except (RedisError, OSError) as error:
            logger.warning("Redis did not reply to the script %s: %r", name, error)
            raise StoreUnavailable("The stream store cannot be reached.", retry_after_s=1) from error
