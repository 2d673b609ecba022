"""Clients of others against the running server. Each is a program in an environment of its own, which prints what it saw.

What needs tools or structured output runs as soon as `GET /v1/models` says that the model can do it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from tests.integration.cluster import Cluster
from tests.integration.conftest import SINGLE

MODEL = "storyteller"
PROGRAMS = Path(__file__).parent / "clients"
INSTALLED = Path(sys.prefix) / "clients"
TIMEOUT_S = 180
MAX_TOKENS = 40
LONG_ANSWER_S = 18.0
"""How long the only place of `SINGLE` is taken by the answer that a client leaves, if it stays."""
# What may fail of LangChain's standard tests with a model that knows nothing but stories, and why.
FAILURES: dict[str, str] = {
    "test_tool_calling[model0]": "wants the argument that the question names",
    "test_tool_calling[model1]": "the same",
    "test_tool_calling_async": "the same",
    "test_unicode_tool_call_integration": "the same",
    "test_agent_loop[model0]": "wants a call though the model may answer",
    "test_agent_loop[model1]": "the same",
    "test_json_mode": "wants the names of a schema that the request does not have",
    "test_structured_output[pydantic]": "wants a text that ends, and the model may write on in a string",
    "test_structured_output[typeddict]": "the same",
    "test_structured_output[json_schema]": "the same",
    "test_structured_output_async[pydantic]": "the same",
    "test_structured_output_async[typeddict]": "the same",
    "test_structured_output_async[json_schema]": "the same",
    "test_structured_output_pydantic_2_v1": "the same",
    "test_structured_output_optional_param": "the same",
    "test_tool_choice": "the same",
}


@dataclass(frozen=True)
class Client:
    """A program, where what it needs is installed, and how the client calls the errors of the server."""

    program: str
    installed: str
    unknown_model: str
    too_long: str
    errors_have_a_status: bool = True
    asks_for_usage: bool = True
    """Whether it gets the usage of a stream."""

    @property
    def name(self) -> str:
        return Path(self.program).stem

    @property
    def command(self) -> list[str]:
        """Starts the program. Fails when what it needs is not installed."""
        if self.program.endswith(".mjs"):
            node = shutil.which("node")
            assert node and (INSTALLED / "node/node_modules").is_dir(), "not installed (make test)"
            return [node, str(PROGRAMS / "node" / self.program), str(INSTALLED / "node")]
        return [python(self.installed), str(PROGRAMS / self.program)]


CHATS = [
    Client("langchain_chat.py", "openai3", "OpenAIModelNotFoundError", "OpenAIContextOverflowError"),
    Client("pydantic_ai_agent.py", "openai3", "ModelNotFoundError", "ModelContextWindowExceededError"),
    Client("llama_index_chat.py", "openai2", "NotFoundError", "BadRequestError", asks_for_usage=False),
    Client("litellm_completion.py", "openai2", "NotFoundError", "ContextWindowExceededError"),
    Client("openai_node.mjs", "node", "NotFoundError", "BadRequestError"),
    Client("ai_sdk.mjs", "node", "APICallError", "APICallError"),
]
INSTRUCTOR = Client(
    "instructor_create.py",
    "openai2",
    "InstructorRetryException",
    "InstructorRetryException",
    errors_have_a_status=False,
)
each_chat = pytest.mark.parametrize("client", CHATS, ids=lambda client: client.name)
each_client = pytest.mark.parametrize("client", [*CHATS, INSTRUCTOR], ids=lambda client: client.name)


def python(installed: str) -> str:
    """The Python of an environment for clients. Fails when it is not there."""
    path = INSTALLED / installed / "bin/python"
    assert path.exists(), "not installed (make test)"
    return str(path)


def run(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command without what its Python would take from ours, and without LiteLLM's look-up of prices on the web."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**inherited, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **environment},
        check=False,
    )


@pytest.fixture(scope="module")
def abilities(server: Cluster) -> str:
    """What the embedded model can do, separated by commas."""
    model = httpx.get(f"{server.base_url}/v1/models/{MODEL}", timeout=60).json()
    return ",".join(name for name, able in model["abilities"].items() if able)


@functools.cache
def report(client: Client, base_url: str, abilities: str) -> dict[str, Any]:
    """What the program saw. It runs once, with all its checks."""
    ran = run([*client.command, base_url, MODEL, abilities])
    assert ran.returncode == 0, ran.stderr
    seen: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return seen


def check(client: Client, server: Cluster, abilities: str, name: str) -> Any:
    """What one check of the program saw. Fails with what it raised."""
    seen = report(client, server.base_url, abilities)[name]
    assert not (isinstance(seen, dict) and "failed" in seen), seen["failed"]
    return seen


@each_chat
def test_a_question_without_settings_is_answered(server: Cluster, abilities: str, client: Client) -> None:
    assert check(client, server, abilities, "default")


@each_chat
def test_streamed_and_whole_say_the_same(server: Cluster, abilities: str, client: Client) -> None:
    whole = check(client, server, abilities, "whole")
    streamed = check(client, server, abilities, "streamed")
    assert whole["text"] == "".join(streamed["parts"])
    assert len(streamed["parts"]) > 1
    assert whole["finish_reason"] == streamed["finish_reason"] == "length"
    prompt_tokens, completion_tokens = whole["usage"]
    assert prompt_tokens > 0 and completion_tokens == MAX_TOKENS
    assert streamed["usage"] == (whole["usage"] if client.asks_for_usage else None)


@each_client
@pytest.mark.parametrize(
    ("name", "status", "words"),
    [("unknown_model", 404, "does not exist"), ("too_long", 400, "prompt is too long")],
)
def test_errors_are_the_clients_own(
    server: Cluster, abilities: str, client: Client, name: str, status: int, words: str
) -> None:
    seen = check(client, server, abilities, name)
    assert seen["class"] == getattr(client, name)
    assert seen["status"] == (status if client.errors_have_a_status else None)
    assert words in seen["message"]


@each_chat
def test_errors_of_streams_are_those_of_whole_answers(
    server: Cluster, abilities: str, client: Client
) -> None:
    streamed = check(client, server, abilities, "too_long_streamed")
    assert streamed == check(client, server, abilities, "too_long")


@each_chat
def test_who_leaves_frees_the_place(server: Cluster, abilities: str, client: Client) -> None:
    """The next one would wait for the end of the long answer otherwise."""
    assert check(client, server, abilities, "left") < LONG_ANSWER_S / 2


@each_client
def test_objects_fit_their_schema(server: Cluster, abilities: str, client: Client) -> None:
    if "structured_output" not in abilities:
        pytest.skip("the model says that it has no structured output")
    animal = check(client, server, abilities, "schema")
    assert set(animal) == {"kind", "age", "tame"}
    assert animal["kind"] in ("fox", "cow", "owl") and isinstance(animal["tame"], bool)
    assert type(animal["age"]) is int and 0 <= animal["age"] <= 99


@each_client
def test_a_required_call_is_made(server: Cluster, abilities: str, client: Client) -> None:
    if "tools" not in abilities:
        pytest.skip("the model says that it has no tools")
    calls = check(client, server, abilities, "tools")
    assert calls
    for call in calls:
        assert call["name"] == "Weather" and call["arguments"]["city"] in ("Paris", "London", "Rome")


def test_langchains_standard_tests(server: Cluster, abilities: str, tmp_path: Path) -> None:
    results = tmp_path / "results.xml"
    # One event loop for all: LangChain keeps its connections for the next model that it makes.
    options = f"""
        -q -c {os.devnull} --rootdir {PROGRAMS} --confcutdir {PROGRAMS} -p no:cacheprovider --junitxml {results}
        --asyncio-mode auto -o asyncio_default_test_loop_scope=session -o asyncio_default_fixture_loop_scope=session
        """
    ran = run(
        [python("openai3"), "-m", "pytest", *options.split(), str(PROGRAMS / "langchain_standard.py")],
        BASE_URL=server.base_url,
        MODEL=MODEL,
        OTHER_MODEL=SINGLE,
        ABILITIES=abilities,
    )
    assert results.exists(), ran.stdout + ran.stderr
    outcomes = defaultdict(list)
    for case in ElementTree.parse(results).iter("testcase"):
        tags = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[tags[0] if tags else "passed"].append(case.attrib["name"])
    print("\n", {outcome: len(names) for outcome, names in outcomes.items()})
    failed = set(outcomes["failure"] + outcomes["error"]) - set(FAILURES)
    assert not failed, ran.stdout
    assert len(outcomes["passed"]) >= 20, ran.stdout
