"""Which web pages may open a WebSocket: browsers let every page try, and send the user's credentials along."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers

from app.errors import NotAllowed

ANY = "*"


def check_origin(headers: Headers, allowed: Collection[str]) -> None:
    """Raises `NotAllowed` for a page that was not loaded from this server's own address, unless its origin is in `allowed`.

    Clients that are no browsers send no `Origin`, and are let through. The scheme of the own address is not looked at: it may
    have been another one before the last proxy.
    """
    origin = headers.get("origin")
    if origin is None or ANY in allowed or origin.lower() in allowed:
        return
    host = headers.get("host", "").lower()
    if not host or origin.lower().partition("://")[2] != host:
        raise NotAllowed("Pages of this origin may not connect. See ingress.allowed_origins.", param="Origin")
