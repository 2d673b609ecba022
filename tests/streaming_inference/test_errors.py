"""The error that a response stands for: of this server, or of something in between."""

from __future__ import annotations

import msgspec
import pytest

from app.asgi.error_response import error_response
from app.errors import ServiceError
from streaming_inference.errors import InvalidRequest, Refused, Unavailable, refused_by


def tree(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [kind, *(found for subclass in kind.__subclasses__() for found in tree(subclass))]


@pytest.mark.parametrize("kind", tree(ServiceError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_server_is_known(kind: type[ServiceError]) -> None:
    response = error_response(kind("Sorry.", param="prompt", retry_after_s=3))
    error = refused_by(response.status_code, response.headers, bytes(response.body))
    assert type(error) is not Refused
    assert (error.message, error.code, error.param, error.status) == (
        "Sorry.",
        kind.code,
        "prompt",
        kind.http_status,
    )
    assert isinstance(error, Unavailable) == (kind.http_status >= 500 or kind.http_status == 408)
    assert error.retryable == (kind.retryable and kind.http_status in (429, 503))
    assert error.retry_after_s == (3 if kind.http_status in (429, 503) else None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "The server answered 502."),
        (b"<html>\n Bad   gateway", "The server answered 502: <html> Bad gateway."),
        (b"\xff" + b"x" * 1000, "The server answered 502: \ufffd" + "x" * 299 + "."),
        (msgspec.json.encode({"error": "no"}), 'The server answered 502: {"error":"no"}.'),
        (msgspec.json.encode({"error": {"message": "No."}}), "No."),
    ],
)
def test_what_is_not_of_this_server_is_shown(body: bytes, said: str) -> None:
    error = refused_by(502, {}, body)
    assert isinstance(error, Unavailable) and error.retryable
    assert (error.message, error.code) == (said, "http_502")


def test_a_proxy_without_a_server_behind_it_is_asked_again_and_a_server_that_broke_is_not() -> None:
    assert refused_by(500, {}, b"Internal Server Error").retryable
    assert not refused_by(500, {}, msgspec.json.encode({"error": {"message": "It broke."}})).retryable


@pytest.mark.parametrize(
    ("status", "kind"), [(301, InvalidRequest), (418, InvalidRequest), (599, Unavailable)]
)
def test_every_status_is_an_error(status: int, kind: type[Refused]) -> None:
    assert type(refused_by(status, {}, b"")) is kind


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("5", 5), (" 5 ", 5), ("", None), ("-1", None), ("Wed, 21 Oct", None), ("9" * 30, None)],
)
def test_retry_after(written: str, seconds: int | None) -> None:
    assert refused_by(503, {"retry-after": written}, b"").retry_after_s == seconds
