"""Streams that are not streamed: the frames of a case put through one of the folds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.asgi.responder import Fold
from app.schema.frames import Frame


def folded(fold: Fold, frames: Iterable[Frame]) -> Mapping[str, Any]:
    """What `fold` makes of all `frames`. Raises what its `add` and its `result` raise."""
    for frame in frames:
        fold.add(frame)
    return fold.result()
