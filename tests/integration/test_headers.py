"""No header and no metadata of a client makes Serve cut a stream or answer in its own way."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.proto import generation_pb2 as pb
from tests.fakes.raw_grpc import call
from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED, SINGLE

TOKENS = 60
"""At 20 ms each: longer than the time limit that the client's header names."""


FREED_S = 10.0
"""More than the place of a stream takes to be free, and less than its 40 s."""
GENERATE = "/streaming_inference.v1.Generation/Generate"


def posted(server: Cluster, headers: dict[str, bytes], **fields: Any) -> http.client.HTTPConnection:
    """The connection on which a request with raw header values was sent."""
    address = urlsplit(server.base_url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    body = {"model": SIMULATED, "prompt": "Once", "max_tokens": TOKENS, "ignore_eos": True, **fields}
    connection.putrequest("POST", "/v1/streams")
    for name, value in {"Content-Type": b"application/json", **headers}.items():
        connection.putheader(name, value)
    data = json.dumps(body).encode()
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data)
    return connection


def post(server: Cluster, headers: dict[str, bytes], **fields: Any) -> tuple[int, bytes]:
    """The status and the body of the answer."""
    connection = posted(server, headers, **fields)
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
    {"x-request-disconnect-disabled": b"?1", "traceparent": b"\xff"},
    {"x-forwarded-for": b"\xff, unknown", "x-forwarded-proto": b"\xff", "x-forwarded-host": b"\xff"},
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


@pytest.mark.integration
def test_a_client_that_leaves_is_noticed_whatever_it_said_before(server: Cluster) -> None:
    """Serve would not tell of it after `?1`; the stream that nobody reads would keep the only place of the model."""
    headers = {"x-request-disconnect-disabled": b"?1"}
    fields = {"model": SINGLE, "on_disconnect": "cancel"}
    connection = posted(server, headers, max_tokens=2000, stream=True, **fields)
    time.sleep(1)
    connection.close()
    began_s = time.monotonic()
    status, body = post(server, {}, max_tokens=1, stream=False, **fields)
    assert status == 200, body
    assert time.monotonic() - began_s < FREED_S


METADATA: list[tuple[bytes, bytes]] = [
    *((b"request_id", value) for value in (b"\xff", "é".encode(), b"x" * 3000, b"")),
    *((b"multiplexed_model_id", value) for value in (b"m", b"\xff")),
    *((b"session_id", value) for value in (b"s", b"\xff")),
    (b"traceparent", b"\xff"),
    (b"application", b"streaming"),
    (b"authorization", b"\xff"),
    (b"x-request-timeout-seconds", b"0.2"),
    (b"x-request-id", b"\xff"),
    (b"serve_multiplexed_model_id", b"\xff"),
    (b"x-session-id", b"\xff"),
]


def generate(server: Cluster, *metadata: tuple[bytes, bytes]) -> Any:
    request = pb.GenerateRequest(model=SIMULATED, prompt="Once", max_tokens=TOKENS, ignore_eos=True)
    return call(server.grpc_address, GENERATE, request.SerializeToString(), list(metadata))


@pytest.mark.integration
@pytest.mark.parametrize("metadata", METADATA, ids=repr)
def test_metadata_for_serve_changes_nothing(server: Cluster, metadata: tuple[bytes, bytes]) -> None:
    answer = generate(server, metadata)
    assert answer.status == 0, answer
    last = pb.Frame.FromString(answer.messages[-1])
    assert last.HasField("end") and last.end.usage.completion_tokens == TOKENS


@pytest.mark.integration
@pytest.mark.parametrize("name", [b"nothing", b"\xff"])
def test_an_unknown_application_is_not_found(server: Cluster, name: bytes) -> None:
    assert generate(server, (b"application", name)).status == 5


@pytest.mark.integration
@pytest.mark.parametrize("name", [b"grpc-timeout", b"grpc-encoding", b"trace-bin"])
def test_metadata_that_is_no_grpc_is_refused_by_grpc(server: Cluster, name: bytes) -> None:
    answer = generate(server, (name, b"\xff"))
    assert answer.status != 0 and not answer.messages


@pytest.mark.integration
def test_a_name_that_http_does_not_allow_breaks_the_call_at_once(server: Cluster) -> None:
    with pytest.raises(ConnectionError, match="the call was broken"):
        generate(server, ("n\u00e9".encode(), b"x"))
