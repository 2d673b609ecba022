"""The filter that stands before Serve."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve._private import constants, http_util
from starlette.types import Message, Receive, Scope, Send

from deployments.ingress.header_filter import HeaderFilter, filtered, middlewares
from tests.integration.cluster import ROOT

KEPT = [
    (b"host", b"h"),
    (b"x-request-id", b"r-1"),
    (b"accept", b"*/*"),
    (b"authorization", b"Bearer \xc3\xa9"),
]


@pytest.mark.parametrize(
    "name",
    [
        b"x-request-timeout-seconds",
        b"X-Request-Timeout-Seconds",
        b"x-request-disconnect-disabled",
        b"x-session-id",
        b"x_session_id",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
        b"x-serve-router-target",
        b"n\xe9",
    ],
)
def test_orders_to_serve_are_taken_off(name: bytes) -> None:
    assert filtered([*KEPT, (name, b"1")]) == KEPT


@pytest.mark.parametrize("value", [b"\xff", b"\xc3\xa9", b"", b"a b", b"x" * 129])
def test_an_invalid_request_id_is_taken_off(value: bytes) -> None:
    assert filtered([(b"x-request-id", value), (b"accept", b"*/*")]) == [(b"accept", b"*/*")]


def test_the_first_valid_request_id_stays() -> None:
    given = [(b"x-request-id", b"\xff"), (b"x-request-id", b"a"), (b"x-request-id", b"b")]
    assert filtered(given) == [(b"x-request-id", b"a")]


def test_trace_headers_stay_unless_they_are_no_text() -> None:
    assert filtered([(b"traceparent", b"00-1-2-01"), (b"tracestate", b"\xff")]) == [
        (b"traceparent", b"00-1-2-01")
    ]


def test_all_headers_that_serve_names_are_dealt_with() -> None:
    """Fails when a version of Serve has another constant that names a header."""
    named = {
        name: value
        for name, value in vars(constants).items()
        if isinstance(value, str)
        and ("_HEADER" in name or name in ("SERVE_MULTIPLEXED_MODEL_ID", "SERVE_SESSION_ID"))
    }
    assert {
        value
        for value in named.values()
        if (value.lower().encode(), b"\xff") in filtered([(value.lower().encode(), b"\xff")])
    } == {
        constants.RAY_SERVE_INGRESS_REQUEST_ROUTER_OPT_HEADERS_FIELD  # a field of a body
    }


def test_it_comes_before_all_that_serve_does() -> None:
    """With the path of the shipped configuration, Serve's own functions see nothing of the client's headers."""
    variables = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["controller_options"]["runtime_env"][
        "env_vars"
    ]
    callback = import_attr(variables["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"])
    assert callback is middlewares
    seen: list[Scope] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is received")

    raw = [
        (b"x-request-id", b"\xff"),
        (b"x-request-timeout-seconds", b"\xff"),
        (b"x-session-id", b"\xff"),
        (b"x-request-disconnect-disabled", b"?1"),
    ]
    assert http_util.parse_disconnect_disabled_header(dict(raw))
    scope: dict[str, Any] = {"type": "http", "headers": raw}
    checked = http_util.validate_http_proxy_callback_return(callback())
    wrapped: Any = http_util._apply_middlewares(app, checked)  # type: ignore[arg-type]
    asyncio.run(wrapped(scope, receive, send))
    [headers] = [dict(each["headers"]) for each in seen]
    assert http_util.parse_request_timeout_header(headers, None) is None
    assert http_util.parse_session_id_header(headers) == ""
    assert not http_util.parse_disconnect_disabled_header(headers)
    assert set(headers) == {b"x-request-id"} and headers[b"x-request-id"].isascii()
    assert [value for name, value in sent[0]["headers"] if name == b"x-request-id"] == [
        headers[b"x-request-id"]
    ]


def test_a_scope_without_headers_passes() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(scope)

    asyncio.run(HeaderFilter(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]
