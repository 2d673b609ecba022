"""Metadata that Serve would act on, with the servers and classes of Serve itself."""

from __future__ import annotations

import asyncio
import inspect
import re
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve import grpc_util as public_grpc_util
from ray.serve._private import grpc_util, proxy_request_response
from ray.serve._private.proxy_request_response import gRPCProxyRequest, gRPCStreamingType
from ray.serve.grpc_util import RayServegRPCContext

from app.proto import generation_pb2 as pb
from deployments.ingress.grpc_services import FilteredContext, Metadata, add_services, filtered
from tests.fakes.raw_grpc import Answer, call
from tests.integration.cluster import ROOT

KEPT: Metadata = [
    ("authorization", "Bearer é"),
    ("application", "streaming"),
    ("trace-bin", b"\xff"),
    ("request_id", "r-1"),
]
GENERATE = "/streaming_inference.v1.Generation/Generate"
CANCEL = "/streaming_inference.v1.Generation/Cancel"


@pytest.mark.parametrize(
    "order",
    [
        ("multiplexed_model_id", "m"),
        ("session_id", "s"),
        ("request_id", "second"),
        ("traceparent", "é"),
        ("tracestate", "\xff"),
    ],
)
def test_orders_to_serve_are_taken_off(order: tuple[str, str | bytes]) -> None:
    assert filtered([*KEPT, order]) == KEPT


@pytest.mark.parametrize("value", ["é", "\x01", "", "a b", "x" * 129])
def test_an_invalid_request_id_is_taken_off(value: str) -> None:
    assert filtered([("request_id", value), ("a", "b")]) == [("a", "b")]


def test_all_metadata_that_serve_reads_is_dealt_with() -> None:
    """Fails when a version of Serve reads another name."""
    source = inspect.getsource(proxy_request_response.gRPCProxyRequest) + inspect.getsource(public_grpc_util)
    read = set(re.findall(r'key == "([^"]+)"|_metadata_dict(?:\.get\(|\[)"([^"]+)"', source))
    names = {name for pair in read for name in pair if name}
    assert {name for name in names if filtered([(name, "\xff")])} == {"application"}  # Serve only compares it
    assert names >= {"request_id", "session_id", "multiplexed_model_id", "traceparent", "tracestate"}


def test_serves_proxy_gets_nothing_of_it() -> None:
    context = Mock()
    context.invocation_metadata.return_value = [
        ("session_id", "s"),
        ("multiplexed_model_id", "m"),
        ("request_id", "é"),
    ]
    context.trailing_metadata.return_value = []
    plain: Any = gRPCProxyRequest(None, context, GENERATE, stream=True)
    assert (plain.session_id, plain.multiplexed_model_id, plain.request_id) == ("s", "m", "é")
    clean: Any = gRPCProxyRequest(None, FilteredContext(context), GENERATE, stream=True)
    assert clean.request_id is None
    assert not {clean.session_id, clean.multiplexed_model_id} & {"s", "m"}


def handlers(service_method: str, streaming_type: gRPCStreamingType) -> Any:
    """Handlers that treat the request id as those of Serve's replicas do."""

    def prepared(context: Any) -> RayServegRPCContext:
        own = RayServegRPCContext(context)
        own.set_trailing_metadata([("request_id", own.request_id() or "made-by-serve")])
        return own

    async def stream(request: Any, context: Any) -> Any:
        own = prepared(context)
        yield pb.Frame().SerializeToString()
        own._set_on_grpc_context(context)

    async def unary(request: Any, context: Any) -> bytes:
        prepared(context)._set_on_grpc_context(context)
        return pb.CancelReply().SerializeToString()

    return stream if streaming_type.value.endswith("stream") else unary


def answer_of(add: Any, method: str, request_id: bytes) -> Answer:
    """What a call with this request id gets from Serve's server with the services that `add` adds."""
    answers = []

    async def main() -> None:
        server = grpc_util.gRPCGenericServer(handlers)
        add(Mock(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        metadata = [(b"request_id", request_id)]
        answers.append(await asyncio.to_thread(call, f"127.0.0.1:{port}", method, b"", metadata))
        await server.stop(None)

    asyncio.run(main())
    return answers[0]


@pytest.mark.parametrize("method", [GENERATE, CANCEL])
@pytest.mark.parametrize("request_id", [b"\xff", "é".encode(), b"\x01", b"x" * 3000])
def test_no_request_id_costs_a_call_its_status(method: str, request_id: bytes) -> None:
    answer = answer_of(add_services, method, request_id)
    assert answer.status == 0 and b"made-by-serve" in answer.headers


def test_a_valid_request_id_comes_back() -> None:
    assert b"abc-123" in answer_of(add_services, GENERATE, b"abc-123").headers


def test_the_shipped_configuration_uses_it() -> None:
    options = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["grpc_options"]
    assert [import_attr(path) for path in options["grpc_servicer_functions"]] == [add_services]
