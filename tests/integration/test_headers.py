"""No header of a client makes Serve cut a stream or answer in its own way."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import pytest

from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED

TOKENS = 60
"""At 20 ms each: longer than the time limit that the client's header names."""


def post(server: Cluster, headers: dict[str, bytes], *, stream: bool) -> tuple[int, bytes]:
    """The status and the body of the answer to a request with raw header values."""
    address = urlsplit(server.base_url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    body = {"model": SIMULATED, "prompt": "Once", "max_tokens": TOKENS, "ignore_eos": True, "stream": stream}
    connection.putrequest("POST", "/v1/streams")
    for name, value in {"Content-Type": b"application/json", **headers}.items():
        connection.putheader(name, value)
    data = json.dumps(body).encode()
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


HEADERS = [
    {"x-request-timeout-seconds": b"0.2"},
    {"X-Request-Timeout-Seconds": b"0"},
    *(
        {name: value}
        for name in (
            "x-request-timeout-seconds",
            "x-request-id",
            "x-session-id",
            "serve_multiplexed_model_id",
        )
        for value in (b"\xff\xfe", "é".encode())
    ),
    {"x-request-disconnect-disabled": b"1", "traceparent": b"\xff"},
]


@pytest.mark.integration
@pytest.mark.parametrize("headers", HEADERS, ids=repr)
def test_a_header_for_serve_changes_nothing(server: Cluster, headers: dict[str, bytes]) -> None:
    status, body = post(server, headers, stream=True)
    assert status == 200, body
    last = body.decode().strip().split("\n\n")[-1]
    frame = json.loads(last.split("data: ")[1])
    assert frame["type"] == "end" and frame["usage"]["completion_tokens"] == TOKENS

    status, body = post(server, headers, stream=False)
    assert status == 200, body
    assert json.loads(body)["usage"]["completion_tokens"] == TOKENS
