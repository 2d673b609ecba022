"""The gRPC service behind HAProxy, with the clients that people use."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from app.proto import generation_pb2 as pb
from app.proto.generation_pb2_grpc import GenerationStub
from tests.fakes.raw_grpc import call as raw_call
from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED, SINGLE, integration_config
from tests.integration.sse_client import get, post

SERVICE = "streaming_inference.v1.Generation"
LONG: dict[str, Any] = {"model": SIMULATED, "prompt": "Once upon a time", "max_tokens": 300, "seed": 3}
FREED_S = 2.0
HEADER_FILTER = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


@asynccontextmanager
async def calls(server: Cluster) -> AsyncIterator[Any]:
    """The service's stub on a channel of its own."""
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        yield GenerationStub(channel)


def live(server: Cluster, test: Callable[[Any, httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with (
            httpx.AsyncClient(base_url=server.base_url, timeout=60) as client,
            calls(server) as stub,
            asyncio.timeout(120),
        ):
            await test(stub, client)

    asyncio.run(main())


def text_of(frames: list[pb.Frame]) -> str:
    return "".join(frame.delta.text for frame in frames if frame.HasField("delta"))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def failure(call: Any) -> tuple[grpc.StatusCode, dict[str, str], list[Any]]:
    """How a call fails, and what came before."""
    messages = []
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        if hasattr(call, "__aiter__"):
            async for message in call:
                messages.append(message)
        else:
            await call
    metadata = dict(failed.value.trailing_metadata())
    return failed.value.code(), {**metadata, "details": failed.value.details()}, messages


def test_a_stream_from_start_to_end_is_that_of_http(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        expected = (await post(client, LONG)).hashes
        frames = [frame async for frame in stub.Generate(pb.GenerateRequest(**LONG))]
        kinds = [frame.WhichOneof("frame") for frame in frames]
        assert kinds[0] == "start" and kinds[-1] == "end" and set(kinds[1:-1]) == {"delta"}
        assert frames[0].start.seed == 3
        assert [sha256(text_of(frames))] == list(frames[-1].end.text_sha256) == expected
        assert sum(frame.delta.tokens for frame in frames) == 300

    live(server, test)


def test_what_is_wrong_with_a_request_is_said_as_over_http(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        wrong = {**LONG, "temperature": 2.5}
        said = (await client.post("/v1/streams", json=wrong)).json()["error"]
        code, metadata, messages = await failure(stub.Generate(pb.GenerateRequest(**wrong)))
        assert (code, messages) == (grpc.StatusCode.INVALID_ARGUMENT, [])
        assert metadata["details"] == f"{said['code']}: {said['message']}"
        assert (metadata["error-code"], metadata["error-type"], metadata["error-param"]) == (
            said["code"],
            said["type"],
            said["param"],
        )
        code, metadata, _ = await failure(stub.Generate(pb.GenerateRequest(model="no", prompt="x")))
        assert (code, metadata["error-code"]) == (grpc.StatusCode.NOT_FOUND, "model_not_found")
        code, metadata, _ = await failure(stub.Resume(pb.ResumeRequest(stream="st_" + "0" * 32)))
        assert (code, metadata["error-code"]) == (grpc.StatusCode.NOT_FOUND, "stream_not_found")
        code, metadata, _ = await failure(stub.Cancel(pb.CancelRequest(stream="st_" + "0" * 32)))
        assert (code, metadata["error-code"]) == (grpc.StatusCode.NOT_FOUND, "stream_not_found")
        code, metadata, _ = await failure(stub.Cancel(pb.CancelRequest()))
        assert (code, metadata["error-param"]) == (grpc.StatusCode.INVALID_ARGUMENT, "stream")
        big = pb.GenerateRequest(prompt="x" * 5_000_000)
        code, metadata, _ = await failure(stub.Generate(big))
        assert (code, metadata["error-code"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "body_too_large")
        huge = pb.GenerateRequest(prompt="x" * 9_000_000)
        code, metadata, _ = await failure(stub.Generate(huge))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED

    live(server, test)


def test_an_error_in_the_middle_is_a_frame_and_a_status(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        request = pb.GenerateRequest(**{**LONG, "timeout_s": 0.5, "max_tokens": 2000})
        code, metadata, frames = await failure(stub.Generate(request))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert (metadata["error-code"], frames[-1].error.error.code) == ("timeout", "timeout")
        assert len(frames) > 5

    live(server, test)


async def place_is_free_within(client: httpx.AsyncClient) -> float:
    """Seconds until a stream on the generator with one place has its first token."""
    began_s = time.monotonic()
    await post(client, {"model": SINGLE, "prompt": "y", "max_tokens": 1})
    return time.monotonic() - began_s


ENDLESS: dict[str, Any] = {"model": SINGLE, "prompt": "x", "max_tokens": 2000}


def test_a_call_that_is_cancelled_frees_its_place(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        call = stub.Generate(pb.GenerateRequest(**ENDLESS, on_disconnect=pb.ON_DISCONNECT_CANCEL))
        for _ in range(5):
            await call.read()
        call.cancel()
        took_s = await place_is_free_within(client)
        print(f"\ncancelled: free after {took_s:.3f} s")
        assert took_s < FREED_S

    live(server, test)


def test_a_deadline_ends_the_call_and_leaves_the_stream(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        request = pb.GenerateRequest(**LONG)
        code, _, frames = await failure(stub.Generate(request, timeout=1.0))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED and len(frames) > 5
        stream = frames[0].start.stream
        after = frames[-1].cursor
        rest = [frame async for frame in stub.Resume(pb.ResumeRequest(stream=stream, after=after))]
        assert [sha256(text_of(frames + rest))] == list(rest[-1].end.text_sha256)

        endless = pb.GenerateRequest(**ENDLESS, on_disconnect=pb.ON_DISCONNECT_CANCEL)
        code, _, frames = await failure(stub.Generate(endless, timeout=0.5))
        took_s = await place_is_free_within(client)
        print(f"\ndeadline: free after {took_s:.3f} s")
        assert took_s < FREED_S

    live(server, test)


def test_cancel_ends_the_stream_of_another_call(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        call = stub.Generate(pb.GenerateRequest(**ENDLESS))
        start = await call.read()
        while not (await call.read()).HasField("delta"):
            pass
        reply = await stub.Cancel(pb.CancelRequest(stream=start.start.stream))
        assert (reply.state, reply.stream) == ("ended", start.start.stream)
        assert reply.choices[0].finish_reason == pb.FINISH_REASON_CANCELLED
        while not (frame := await call.read()).HasField("end"):
            pass
        assert frame.end.choices[0].finish_reason == pb.FINISH_REASON_CANCELLED
        assert await stub.Cancel(pb.CancelRequest(stream=start.start.stream)) == reply

    live(server, test)


def test_a_stream_of_http_goes_on_here_and_there_again(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        for fields in (LONG, {**LONG, "n": 3}):
            expected = (await post(client, fields)).hashes
            reading = await post(client, fields, until_tokens=40)
            after = reading.last_event_id.partition(":")[2]
            call = stub.Resume(pb.ResumeRequest(stream=reading.stream, after=after))
            async for frame in call:
                reading.take(f"{reading.stream}:{frame.cursor}", as_dict(frame))
                if reading.tokens > 100:
                    break
            call.cancel()
            assert reading.tokens > 100
            await get(client, f"/v1/streams/{reading.stream}/events", reading)
            assert reading.hashes == expected

    live(server, test)


def as_dict(frame: pb.Frame) -> dict[str, Any]:
    delta = frame.delta
    return {
        "type": frame.WhichOneof("frame"),
        "cursor": frame.cursor,
        "index": delta.index,
        "text": delta.text,
        "tokens": delta.tokens,
    }


def test_streams_belong_to_the_key_that_started_them(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        mine = (("authorization", "Bearer mine"),)
        start = await stub.Generate(pb.GenerateRequest(**LONG, detach=True), metadata=mine).read()
        resume = pb.ResumeRequest(stream=start.start.stream)
        code, metadata, _ = await failure(stub.Resume(resume, metadata=(("x-api-key", "other"),)))
        assert (code, metadata["error-code"]) == (grpc.StatusCode.NOT_FOUND, "stream_not_found")
        frames = [frame async for frame in stub.Resume(resume, metadata=(("x-api-key", "mine"),))]
        assert frames[-1].HasField("end")

    live(server, test)


def test_the_same_key_gives_the_same_stream_over_http_and_here(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        fields = {**LONG, "max_tokens": 5}
        key = f"key-{time.time_ns()}"
        first = await post(client, fields, headers={"idempotency-key": key})
        again = stub.Generate(pb.GenerateRequest(**fields), metadata=(("idempotency-key", key),))
        assert (await again.read()).start.stream == first.stream
        other = stub.Generate(pb.GenerateRequest(**LONG), metadata=(("idempotency-key", key),))
        code, metadata, _ = await failure(other)
        assert (code, metadata["error-code"]) == (grpc.StatusCode.ALREADY_EXISTS, "idempotency_conflict")

    live(server, test)


async def state(client: httpx.AsyncClient, stream: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/v1/streams/{stream}")).json()
    return found


WIDE: dict[str, Any] = {"model": SIMULATED, "prompt": "x", "max_tokens": 2000, "logprobs": 20, "n": 4}
STEADY_S = 3.0
# What clients read ahead grows with the speed of the connection, unless they are told not to measure it.
READS_LITTLE_AHEAD = [("grpc.http2.bdp_probe", 0)]


async def stands_at(client: httpx.AsyncClient, stream: str) -> str:
    """The cursor of a stream that runs, when it has stopped moving."""
    seen = [""]
    until_s = time.monotonic() + 60
    while seen[-1] not in seen[:-1]:
        assert time.monotonic() < until_s, seen
        await asyncio.sleep(STEADY_S)
        found = await state(client, stream)
        assert found["state"] == "running", found
        seen.append(found["cursor"])
    return seen[-1]


@pytest.mark.parametrize("kind", ["call", "conversation"])
def test_a_client_that_does_not_read_pauses_its_stream(server: Cluster, kind: str) -> None:
    """Log probabilities and four choices make the frames large: what fits into the buffers on the way is not much then."""
    request = pb.GenerateRequest(**WIDE, on_disconnect=pb.ON_DISCONNECT_CANCEL)

    async def test(_: Any, client: httpx.AsyncClient) -> None:
        async with grpc.aio.insecure_channel(server.grpc_address, options=READS_LITTLE_AHEAD) as channel:
            stub: Any = GenerationStub(channel)
            if kind == "call":
                call = stub.Generate(request)
            else:
                call = stub.Converse()
                await call.write(pb.ClientMessage(generate=request))
            stream = (await call.read()).start.stream
            cursor = await stands_at(client, stream)
            frames = 0
            while (await call.read()).cursor != cursor:
                frames += 1
            print(f"\n{kind}: paused at {cursor}, {frames} frames ahead of the client")
            # It goes on when it is read, and stands still again when it is not.
            later = await stands_at(client, stream)
            assert sum(map(int, later.split("."))) > sum(map(int, cursor.split(".")))
            call.cancel()
            await asyncio.sleep(STEADY_S)
            assert (await state(client, stream))["state"] == "ended"

    live(server, test)


def check_health_and_reflection(channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        stub.Check(health_pb2.HealthCheckRequest(service="other"))
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    assert set(stub.List(health_pb2.HealthListRequest()).statuses) == {"", SERVICE}

    database = ProtoReflectionDescriptorDatabase(channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    service = DescriptorPool(database).FindServiceByName(SERVICE)
    assert {method.name for method in service.methods} == {"Generate", "Resume", "Cancel", "Converse"}


def test_health_and_reflection(server: Cluster) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        check_health_and_reflection(channel)


def test_a_conversation(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        call = stub.Converse()
        first = pb.GenerateRequest(**LONG)
        await call.write(pb.ClientMessage(ref="a", generate=first))
        await call.write(pb.ClientMessage(ref="b", window=20, generate=pb.GenerateRequest(**LONG)))
        await call.write(pb.ClientMessage(ref="c", generate=pb.GenerateRequest(prompt="x", n=99)))
        await call.write(pb.ClientMessage(ref="d", ping=pb.PingRequest()))
        refs: dict[str, str] = {}
        texts: dict[str, str] = {}
        ends: dict[str, pb.Frame] = {}
        while len(ends) < 2:
            frame = await call.read()
            kind = frame.WhichOneof("frame")
            if kind == "start":
                refs[frame.ref] = frame.stream
            elif kind == "refusal":
                assert (frame.ref, frame.refusal.error.param) == ("c", "n")
                refs["c"] = ""
            elif kind == "pong":
                refs[frame.ref] = "pong"
            elif kind == "delta":
                texts[frame.stream] = texts.get(frame.stream, "") + frame.delta.text
                if frame.stream == refs["b"]:
                    ack = pb.AckRequest(stream=frame.stream, cursor=frame.cursor)
                    await call.write(pb.ClientMessage(ack=ack))
            else:
                ends[frame.stream] = frame
        assert set(refs) == set("abcd")
        for stream, text in texts.items():
            assert [sha256(text)] == list(ends[stream].end.text_sha256)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK

    live(server, test)


def test_a_conversation_that_breaks_leaves_its_streams(server: Cluster) -> None:
    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        call = stub.Converse()
        request = pb.GenerateRequest(**ENDLESS, on_disconnect=pb.ON_DISCONNECT_CANCEL)
        await call.write(pb.ClientMessage(generate=request))
        for _ in range(5):
            await call.read()
        call.cancel()
        took_s = await place_is_free_within(client)
        print(f"\nbroken conversation: free after {took_s:.3f} s")
        assert took_s < FREED_S

    live(server, test)


def test_with_the_own_proxy_of_serve() -> None:
    """Without HAProxy the proxy is another process: statuses, cancellation and conversations get through it all the same."""
    config = integration_config()
    args = config["applications"][0]["args"]
    args["models"] = [model for model in args["models"] if model["name"] == SINGLE]
    args["ingress"] = {"replicas": 1}
    variables = config.pop("controller_options")["runtime_env"]["env_vars"]
    # What Serve reads from its environment in this mode, too. See docs/security.md.
    cluster = Cluster(config, **{HEADER_FILTER: variables[HEADER_FILTER]})

    async def test(stub: Any, client: httpx.AsyncClient) -> None:
        few: dict[str, Any] = {"model": SINGLE, "prompt": "x", "max_tokens": 5, "seed": 1}
        expected = (await post(client, few)).hashes
        frames = [frame async for frame in stub.Generate(pb.GenerateRequest(**few))]
        assert [sha256(text_of(frames))] == list(frames[-1].end.text_sha256) == expected

        code, metadata, _ = await failure(stub.Generate(pb.GenerateRequest(**few, n=0)))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert metadata["details"] == "invalid_request: n must be at least 1, not 0."
        code, metadata, _ = await failure(stub.Cancel(pb.CancelRequest(stream="st_1")))
        assert (code, metadata["error-code"]) == (grpc.StatusCode.NOT_FOUND, "stream_not_found")
        slow = pb.GenerateRequest(**{**few, "max_tokens": 2000, "timeout_s": 0.5})
        code, metadata, frames = await failure(stub.Generate(slow))
        assert (code, frames[-1].error.error.code) == (grpc.StatusCode.DEADLINE_EXCEEDED, "timeout")
        assert metadata["error-code"] == "timeout"

        headers = {"x-request-timeout-seconds": "0.02"}
        assert (await post(client, few, headers=headers)).hashes == expected
        raw = [(b"request_id", b"\xff"), (b"session_id", b"\xff"), (b"multiplexed_model_id", b"m")]
        message = pb.GenerateRequest(**few).SerializeToString()
        answer = await asyncio.to_thread(raw_call, cluster.grpc_address, f"/{SERVICE}/Generate", message, raw)
        assert answer.status == 0
        assert [sha256(text_of([pb.Frame.FromString(each) for each in answer.messages]))] == expected

        call = stub.Generate(pb.GenerateRequest(**ENDLESS, on_disconnect=pb.ON_DISCONNECT_CANCEL))
        for _ in range(5):
            await call.read()
        call.cancel()
        assert await place_is_free_within(client) < FREED_S

        conversation = stub.Converse()
        await conversation.write(pb.ClientMessage(ref="a", generate=pb.GenerateRequest(**few)))
        await conversation.write(pb.ClientMessage(ref="b", cancel=pb.CancelRequest(stream="st_1")))
        await conversation.done_writing()
        said = [frame async for frame in conversation]
        assert [frame.ref for frame in said if frame.HasField("refusal")] == ["b"]
        assert [sha256(text_of(said))] == expected

    try:
        cluster.start()
        live(cluster, test)
        with grpc.insecure_channel(cluster.grpc_address) as channel:
            check_health_and_reflection(channel)
    finally:
        cluster.stop()
