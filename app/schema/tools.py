"""Tools as a request offers them, and calls of them as an assistant's message has them."""

from __future__ import annotations

from typing import Any

import msgspec


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that an assistant has made. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call. `parameters` is a JSON Schema; empty: the function takes none."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool = False
