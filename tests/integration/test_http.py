"""The running server over plain HTTP: native streams, many at once, clients that vanish, what is refused."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED

PROMPTS = ["Tell me a story about a fox.", "What does a cow say?", "Write a poem about rain.", "Who are you?"]


def events(body: str) -> list[tuple[str, dict[str, Any]]]:
    """The ids and frames of a native stream, which must be nothing else."""
    found = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        id_line, data_line = block.split("\n")
        found.append((id_line.removeprefix("id: "), json.loads(data_line.removeprefix("data: "))))
    return found


def texts(frames: list[dict[str, Any]]) -> dict[int, str]:
    found: dict[int, str] = {}
    for frame in frames:
        if frame["type"] == "delta":
            found[frame["index"]] = found.get(frame["index"], "") + frame["text"]
    return found


def body(number: int) -> dict[str, Any]:
    """The request of one of many clients: each of another kind."""
    rng = random.Random(number)
    fields: dict[str, Any] = {
        "model": "storyteller",
        "messages": [{"role": "user", "content": rng.choice(PROMPTS)}],
        "max_tokens": rng.randint(1, 60),
        "temperature": rng.choice([0, 0.7, 1.3]),
        "seed": number,
    }
    extra: list[dict[str, Any]] = [
        {},
        {"top_p": 0.8},
        {"top_k": 5},
        {"min_p": 0.1},
        {"stop": [" the "]},
        {"presence_penalty": 1.0, "frequency_penalty": 0.5},
        {"repetition_penalty": 1.3, "min_tokens": 5},
        {"n": 2},
        {"logprobs": 2, "return_token_ids": True},
        {"logit_bias": {"300": 5}, "ignore_eos": True},
    ]
    return {**fields, **rng.choice(extra)}


async def collect(client: httpx.AsyncClient, fields: dict[str, Any]) -> list[dict[str, Any]]:
    response = await client.post("/v1/streams", json=fields)
    assert response.status_code == 200, response.text
    return [frame for _, frame in events(response.text)]


def test_frames_cursors_and_headers_of_a_native_stream(server: Cluster) -> None:
    with httpx.Client(base_url=server.base_url, timeout=60) as client:
        response = client.post("/v1/streams", json=body(2))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers and "x-request-id" in response.headers
    found = events(response.text)
    frames = [frame for _, frame in found]
    start, end = frames[0], frames[-1]
    assert (start["type"], start["cursor"], start["seed"], end["type"]) == ("start", "0", 2, "end")
    assert response.headers["x-stream-id"] == start["stream"]
    *names, last = [name for name, _ in found]
    assert names == [f"{start['stream']}:{frame['cursor']}" for frame in frames[:-1]]
    assert last == f"{start['stream']}:{end['cursor']}:end"
    whole = texts(frames)
    assert [hashlib.sha256(whole.get(i, "").encode()).hexdigest() for i in range(len(end["choices"]))] == end[
        "text_sha256"
    ]
    assert sum(map(int, end["cursor"].split("."))) == end["usage"]["completion_tokens"]
    assert end["timings"]["ttft_ms"] > 0


def test_32_streams_at_once_say_what_each_says_alone(server: Cluster) -> None:
    async def main() -> None:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server.base_url, timeout=120, limits=limits) as client:
            together = await asyncio.gather(*(collect(client, body(number)) for number in range(32)))
            for number, frames in enumerate(together):
                alone = await collect(client, body(number))
                assert texts(alone) == texts(frames), body(number)
                assert alone[-1]["choices"] == frames[-1]["choices"]
                assert alone[-1]["text_sha256"] == frames[-1]["text_sha256"]
                assert alone[-1]["usage"] == frames[-1]["usage"]

    asyncio.run(main())


def test_one_json_is_the_fold_of_the_same_stream(server: Cluster) -> None:
    with httpx.Client(base_url=server.base_url, timeout=60) as client:
        frames = [frame for _, frame in events(client.post("/v1/streams", json=body(7)).text)]
        whole = client.post("/v1/streams", json={**body(7), "stream": False}).json()
    assert {choice["index"]: choice["text"] for choice in whole["choices"]} == texts(frames)
    assert whole["text_sha256"] == frames[-1]["text_sha256"]


def test_a_client_that_vanishes_frees_its_place(server: Cluster) -> None:
    """More streams than the server takes at once, each left after its first token: places come back fast enough."""
    endless = {
        "model": SIMULATED,
        "prompt": "x",
        "max_tokens": 2000,
        "on_disconnect": "cancel",
    }
    with httpx.Client(base_url=server.base_url, timeout=60) as client:
        for _ in range(8):
            opened = []
            for _ in range(64):
                context = client.stream("POST", "/v1/streams", json=endless)
                response = context.__enter__()
                assert response.status_code == 200
                opened.append((context, response))
            for context, response in opened:
                next(response.iter_raw())
                context.__exit__(None, None, None)
            time.sleep(0.25)


def test_what_is_refused_has_the_documented_shape(server: Cluster) -> None:
    with httpx.Client(base_url=server.base_url, timeout=60) as client:
        cases = [
            (client.get("/nothing"), 404),
            (client.get("/v1/streams"), 405),
            (client.post("/v1/streams", content=b"{"), 415),
            (client.post("/v1/streams", content=b"{", headers={"content-type": "application/json"}), 400),
            (client.post("/v1/streams", json={"prompt": "x", "model": "storyteller", "colour": 1}), 400),
            (client.post("/v1/streams", json={"prompt": "x" * 34_000_000, "model": "storyteller"}), 413),
        ]
    for response, status in cases:
        assert response.status_code == status, response.text
        assert set(response.json()) == {"error"}
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_an_http_1_0_client_gets_no_chunks_through_the_proxy(server: Cluster) -> None:
    async def main() -> None:
        address = urlsplit(server.base_url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        content = json.dumps({"model": SIMULATED, "prompt": "Once", "max_tokens": 20}).encode()
        fields = f"host: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
        writer.write(f"POST /v1/streams HTTP/1.0\r\n{fields}\r\n\r\n".encode() + content)
        reads = []
        while data := await reader.read(65536):
            reads.append(data)
        writer.close()
        head, _, answer = b"".join(reads).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert len(reads) > 5  # as the tokens came
        assert events(answer.decode())[-1][1]["type"] == "end"

    asyncio.run(main())


def test_a_packed_body_and_headers_of_any_bytes_pass_the_proxy(server: Cluster) -> None:
    content = json.dumps({"model": SIMULATED, "prompt": "Once", "max_tokens": 2, "stream": False}).encode()
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    strange = dict.fromkeys(("x-api-key", "origin", "user-agent", "x-unknown"), "caf\xe9".encode("latin-1"))
    headers = [(name.encode(), value.encode()) for name, value in packed.items()]
    headers += [(name.encode(), value) for name, value in strange.items()]
    answer = httpx.post(f"{server.base_url}/v1/streams", content=gzip.compress(content), headers=headers)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 2
    refused = httpx.post(
        f"{server.base_url}/v1/streams",
        content=content,
        headers=[*headers[:1], (b"idempotency-key", b"\xe9")],
    )
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_health_and_documents(server: Cluster) -> None:
    with httpx.Client(base_url=server.base_url, timeout=60) as client:
        assert client.get("/health").status_code == 200
        assert "/v1/streams" in client.get("/openapi.json").json()["paths"]
        assert client.get("/docs").headers["content-type"].startswith("text/html")
