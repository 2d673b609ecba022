"""Errors as responses: every class of the tree, and what the framework refuses by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.asgi.error_response import (
    error_response,
    handle_http_exception,
    handle_unexpected,
    handle_validation_error,
)
from app.errors import ServiceError

REQUEST = Request(
    {
        "type": "http",
        "method": "PUT",
        "path": "/some{path}",
        "headers": [(b"host", b"x")],
        "query_string": b"",
    }
)


def tree(error_class: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for subclass in error_class.__subclasses__():
        yield subclass
        yield from tree(subclass)


@pytest.mark.parametrize("error_class", list(tree(ServiceError)))
def test_every_error(error_class: type[ServiceError]) -> None:
    response = error_response(error_class("What to do.", param="field"))
    assert response.status_code == error_class.http_status
    assert response.headers["content-type"] == "application/json"
    expected = {
        "message": "What to do.",
        "type": error_class.type,
        "param": "field",
        "code": error_class.code,
    }
    assert json.loads(bytes(response.body)) == {"error": expected}
    assert ("retry-after" in response.headers) == (error_class.http_status in (429, 503))
    if error_class.http_status >= 500:
        assert ("x-should-retry" in response.headers) != error_class.retryable


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "not_found", "There is nothing at /some{path}."),
        (405, "method_not_allowed", "/some{path} doesn't take PUT."),
        (413, "body_too_large", "The body is too large."),
        (415, "unsupported_media_type", "Send the body as application/json."),
        (418, "invalid_request", "The request can't be handled."),
        (503, "internal_error", "The request can't be handled."),
    ],
)
def test_what_the_framework_refuses(status: int, code: str, message: str) -> None:
    error = HTTPException(status, "a detail of the framework", headers={"allow": "GET"})
    response = asyncio.run(handle_http_exception(REQUEST, error))
    assert (response.status_code, response.headers["allow"]) == (status, "GET")
    body = json.loads(bytes(response.body))["error"]
    assert (body["code"], body["message"], body["param"]) == (code, message, None)


def test_parameters_of_the_wrong_shape() -> None:
    error = RequestValidationError(
        [{"loc": ("query", "after"), "msg": "Input should be a valid integer", "type": "x"}]
    )
    response = asyncio.run(handle_validation_error(REQUEST, error))
    body = json.loads(bytes(response.body))["error"]
    assert response.status_code == 400
    assert (body["param"], body["message"]) == ("after", "after: Input should be a valid integer.")


def test_the_unexpected_says_nothing_of_itself() -> None:
    response = asyncio.run(handle_unexpected(REQUEST, ValueError("secret")))
    assert response.status_code == 500 and b"secret" not in bytes(response.body)
