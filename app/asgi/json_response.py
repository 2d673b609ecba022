"""Answers in JSON, which readers that split lines read whole."""

from __future__ import annotations

from starlette.responses import Response

from app.wire.json_text import json_bytes


class JSONResponse(Response):
    """`content` as `app.wire.json_text` writes it."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return json_bytes(content)
