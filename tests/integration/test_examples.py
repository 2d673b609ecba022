"""The examples of the documents and the programs in examples/, run as they stand there.

Every block that is marked `python` or `sh` is run, each by itself, in an empty folder; blocks with another mark, or none, are
not. The addresses of the shipped configuration become those of the running server. An example fails when it ends with an error,
and when it prints nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.browser import Browser
from tests.integration.cluster import ROOT, Cluster
from tests.integration.cutting_proxy import CuttingProxy

DOCUMENTS = ("docs/api.md", "docs/client.md", "docs/websocket.md")
SECTION = "One example per protocol"
PROTOCOLS = (
    "Server-sent events",
    "OpenAI dialect",
    "WebSocket",
    "gRPC",
    "Handles",
    "Client library",
    "Command line",
)
TIMEOUT_S = 120
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A block that is to be run. `headings` are those above it, the document's own first."""

    document: str
    line: int
    language: str
    code: str
    headings: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"


def examples(document: str, text: str) -> Iterator[Example]:
    """The blocks of a document that are to be run."""
    # Comments of a shell look like headings: what is in a block is blanked before headings are looked for.
    prose = _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    for match in _FENCE.finditer(text):
        if match[1] in ("python", "sh"):
            above: dict[int, str] = {}
            for heading in _HEADING.finditer(prose[: match.start()]):
                level = len(heading[1])
                above = {deep: title for deep, title in above.items() if deep < level} | {level: heading[2]}
            line = text.count("\n", 0, match.start()) + 1
            yield Example(document, line, match[1], match[2], tuple(above.values()))


EXAMPLES = [example for path in DOCUMENTS for example in examples(path, (ROOT / path).read_text("utf-8"))]
PROGRAMS = [
    Example(f"examples/{path.name}", 1, "python", path.read_text("utf-8"), ())
    for path in sorted((ROOT / "examples").glob("*.py"))
]
PAGE = ROOT / "examples" / "event_source.html"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_has_an_example(protocol: str) -> None:
    assert [
        example for example in EXAMPLES if SECTION in example.headings and protocol == example.headings[-1]
    ]


def test_no_protocol_is_forgotten() -> None:
    shown = {example.headings[-1] for example in EXAMPLES if SECTION in example.headings}
    assert shown == set(PROTOCOLS)


def at_home(server: Cluster, code: str) -> str:
    """`code` with the addresses of the running server."""
    at_http = code.replace("127.0.0.1:8000", server.base_url.removeprefix("http://"))
    return at_http.replace("127.0.0.1:9000", server.grpc_address)


def environment(server: Cluster) -> dict[str, str]:
    """What a user's shell would have: the project installed, and the command line told where the server is."""
    return {
        **server.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "STREAMING_INFERENCE_URL": server.base_url,
        "RAY_ADDRESS": server.ray_address,
    }


@pytest.mark.parametrize("example", EXAMPLES + PROGRAMS, ids=lambda example: example.name)
def test_the_example_runs(server: Cluster, tmp_path: Path, example: Example) -> None:
    path = tmp_path / f"example.{example.language}"
    path.write_text(at_home(server, example.code), "utf-8")
    command = [sys.executable] if example.language == "python" else ["bash", "-euo", "pipefail"]
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run(
        [*command, str(path)],
        cwd=folder,
        env=environment(server),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{example.name}:\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), f"{example.name} printed nothing"


def test_the_page_runs(server: Cluster) -> None:
    async def main() -> dict[str, str]:
        async with (
            CuttingProxy(server.base_url, {"/": PAGE}, []) as origin,
            Browser() as browser,
            asyncio.timeout(TIMEOUT_S),
        ):
            await browser.visit(f"{origin.origin}/")
            await browser.evaluate("document.querySelector('button').click()")
            shown: dict[str, str] = {}
            while "ending" not in shown:
                await asyncio.sleep(0.1)
                paragraph = "document.querySelector('p')"
                shown = await browser.evaluate(f"({{...{paragraph}.dataset, text: {paragraph}.textContent}})")
            return shown

    shown = asyncio.run(main())
    assert shown["ending"] == "end" and shown["text"]


def test_every_way_in_has_a_program() -> None:
    names = {path.name for path in (ROOT / "examples").iterdir() if path.is_file()}
    assert names == {
        "event_source.html",
        "grpc_stub.py",
        "native_client.py",
        "openai_sdk.py",
        "ray_handle.py",
        "server_sent_events.py",
        "web_socket.py",
    }


def test_how_blocks_are_found() -> None:
    text = "\n".join(
        [
            *("# A", "```sh", "# not a heading", "ls", "```"),
            *("## B", "### C", "```json", "{}", "```", "```python", "pass", "```"),
            *("## D", "```", "no", "```", "```sh", "ls", "```", ""),
        ]
    )
    found = [(example.line, example.language, example.headings) for example in examples("a.md", text)]
    assert found == [(2, "sh", ("A",)), (11, "python", ("A", "B", "C")), (18, "sh", ("A", "D"))]
