"""The command line against the real server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import httpx

from tests.integration.cluster import ROOT, Cluster
from tests.integration.conftest import SIMULATED

PROMPT = "Once upon a time"


def run(server: Cluster, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streaming_inference", *words],
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
        "streaming_inference",
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
