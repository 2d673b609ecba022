"""The command line and the client library against the real server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest

from app.client import Client, NotFound, RetryPolicy
from app.schema.frames import Delta
from tests.integration.cluster import ROOT, Cluster
from tests.integration.conftest import SIMULATED

PROMPT = "Once upon a time"


def run(server: Cluster, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env={**server.environment, "STREAMING_INFERENCE_URL": server.base_url},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def frames(server: Cluster, *words: str) -> list[dict[str, Any]]:
    done = run(server, *words, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_models_generate_resume_cancel(server: Cluster) -> None:
    assert {"storyteller", SIMULATED} <= set(run(server, "models").stdout.split())
    told = frames(server, "generate", "--model", "storyteller", "--max-tokens", "20", "--seed", "1", PROMPT)
    text = "".join(frame.get("text", "") for frame in told)
    stream = told[0]["stream"]
    assert run(server, "resume", stream).stdout == text + "\n"
    again = frames(server, "resume", stream, "--after", told[1]["cursor"])
    assert "".join(frame.get("text", "") for frame in told[:2] + again) == text
    assert run(server, "cancel", stream).stdout.startswith(
        f"{stream}: {told[-1]['choices'][0]['finish_reason']}"
    )


def test_chat_over_a_pipe(server: Cluster) -> None:
    done = run(
        server,
        "chat",
        "--model",
        "storyteller",
        "--temperature",
        "0",
        stdin="What does a cow say?\nAnd a dog?\n",
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) >= 2


def test_errors(server: Cluster) -> None:
    for words, code, said in [
        (("generate", "--model", "nope", "x"), 1, "model_not_found"),
        (("resume", "st_" + "0" * 32), 1, "stream_not_found"),
    ]:
        done = run(server, *words)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_program_that_is_interrupted_frees_its_place(server: Cluster) -> None:
    command = [
        sys.executable,
        "-m",
        "app.cli",
        "generate",
        "--model",
        SIMULATED,
        "--max-tokens",
        "2000",
        "--json",
        "x",
    ]
    environment = {**server.environment, "STREAMING_INFERENCE_URL": server.base_url}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        stream = json.loads(process.stdout.readline())["stream"]
        process.stdout.readline()
        process.send_signal(2)
        process.stdout.read()
        assert process.wait(30) == 130
    status = httpx.get(f"{server.base_url}/v1/streams/{stream}").json()
    assert status["choices"][0]["finish_reason"] == "cancelled"


def test_the_library_reads_what_the_server_makes(server: Cluster) -> None:
    async def main() -> None:
        async with Client(server.base_url) as client:
            request: dict[str, Any] = {"model": "storyteller", "prompt": PROMPT, "max_tokens": 24, "seed": 3}
            result = await client.generate(**request, n=2, logprobs=1, return_token_ids=True).result()
            assert result.verified and len(result.choices) == 2
            for choice in result.choices:
                assert choice.text and choice.token_ids and choice.logprobs
                assert len(choice.token_ids) == len(choice.logprobs)
            smooth = [text async for text in client.generate(**request).text(smooth=True)]
            assert "".join(smooth) == result.choices[0].text
            with pytest.raises(NotFound):
                await client.status("st_" + "0" * 32)

    asyncio.run(main())


def test_the_library_cancels_what_it_leaves_and_goes_on_with_what_it_left(server: Cluster) -> None:
    async def main() -> None:
        policy = RetryPolicy(retries=2)
        async with Client(server.base_url, retry=policy) as client:
            began_s = time.monotonic()
            async with client.generate(model=SIMULATED, prompt="x", max_tokens=2000) as left:
                async for frame in left:
                    if isinstance(frame, Delta):
                        break
            assert time.monotonic() - began_s < 20
            assert left.id is not None
            status = await client.status(left.id)
            assert status.choices is not None and status.choices[0].finish_reason == "cancelled"
            name = await client.start(model=SIMULATED, prompt="x", max_tokens=100, seed=5)
            readers = [client.resume(name, on_exit="leave").result() for _ in range(4)]
            texts = {result.text for result in await asyncio.gather(*readers)}
            assert len(texts) == 1

    asyncio.run(main())
