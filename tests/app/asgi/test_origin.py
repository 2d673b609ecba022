"""Which pages may open a WebSocket."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from starlette.datastructures import Headers

from app.asgi.origin import check_origin
from app.errors import NotAllowed
from app.settings import IngressSettings

LISTED = ["https://app.example", "http://[::1]:3000"]


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "server.example", []),
        (None, None, []),
        ("https://server.example", "server.example", []),
        ("http://server.example:8000", "server.example:8000", []),
        ("https://Server.Example", "server.example", []),
        ("http://[::1]:8000", "[::1]:8000", []),
        ("https://app.example", "server.example", LISTED),
        ("https://APP.example", "server.example", LISTED),
        ("http://[::1]:3000", "server.example", LISTED),
        ("null", "server.example", ["null"]),
        ("https://anything.example", "server.example", ["*"]),
    ],
)
def test_who_may_connect(origin: str | None, host: str | None, allowed: list[str]) -> None:
    check_origin(headers(origin, host), IngressSettings(allowed_origins=allowed).allowed_origins)


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://other.example", "server.example", []),
        ("https://server.example:8000", "server.example", []),
        ("https://server.example.evil.example", "server.example", []),
        ("https://server.example@evil.example", "server.example", []),
        ("null", "server.example", LISTED),
        ("", "server.example", []),
        ("", "", []),
        ("server.example", "server.example", []),
        ("http://app.example", "server.example", LISTED),
        ("https://app.example:444", "server.example", LISTED),
        ("https://server.example", None, []),
        ("http://[", "server.example", []),
    ],
)
def test_who_may_not(origin: str, host: str | None, allowed: list[str]) -> None:
    with pytest.raises(NotAllowed):
        check_origin(headers(origin, host), allowed)


def test_the_setting_is_lower_case_and_takes_only_origins() -> None:
    assert IngressSettings(allowed_origins=["HTTPS://App.Example"]).allowed_origins == ["https://app.example"]
    for wrong in ("app.example", "https://app.example/", "https://app.example/page", "", "https://"):
        with pytest.raises(ValidationError):
            IngressSettings(allowed_origins=[wrong])


def headers(origin: str | None, host: str | None) -> Headers:
    given = {"origin": origin, "host": host}
    return Headers({name: value for name, value in given.items() if value is not None})
