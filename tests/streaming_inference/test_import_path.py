"""The client library in a project that has a package `app` of its own, and without the server's code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import streaming_inference
from tests.fakes.live_server import ANSWER, LiveServer, live_server

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio, sys
import app
from streaming_inference import Client, NotFound

async def main():
    async with Client(sys.argv[1]) as client:
        async with client.generate(model="letters", prompt="hi") as stream:
            print("".join([text async for text in stream.text()]))
        try:
            await client.status("st_" + "0" * 32)
        except NotFound as error:
            print(error.code)

asyncio.run(main())
print(app.OWNER, *sorted(name for name in sys.modules if name.split(".")[0] in ("app", "deployments")))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as running:
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project with a package `app`, which is found before the server's."""
    folder = tmp_path / "project"
    (folder / "app").mkdir(parents=True)
    (folder / "app" / "__init__.py").write_text("OWNER = 'the user'\n", "utf-8")
    (folder / "program.py").write_text(PROGRAM, "utf-8")
    return folder


def run(project: Path, *words: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A Python program in the project. The package is installed in `path`, which comes after the project's folder."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=project,
        env={**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{path}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_library_works_beside_another_app(server: LiveServer, project: Path) -> None:
    done = run(project, "program.py", server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [ANSWER, "stream_not_found", "the user app"]


def test_the_package_needs_no_other_package_of_the_project(
    server: LiveServer, project: Path, tmp_path: Path
) -> None:
    shutil.copytree(Path(streaming_inference.__file__).parent, tmp_path / "installed" / "streaming_inference")
    done = run(project, "program.py", server.url, path=tmp_path / "installed")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the user app"


def test_the_command_line_works_beside_another_app(server: LiveServer, project: Path) -> None:
    program = "from streaming_inference.cli import main; main()"  # the console script
    words = ("generate", "--model", "letters", "--url", server.url, "hi")
    for start in (("-m", "streaming_inference"), ("-c", program)):
        done = run(project, *start, *words)
        assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr
    shown = run(project, "-c", program, "--help").stdout
    assert "generate" in shown and "key" not in shown.split("Commands:")[1]


def test_another_app_that_is_broken_is_not_hidden(project: Path) -> None:
    """Only a command that is not there is left out: an error in it is shown."""
    (project / "app" / "cli").mkdir()
    (project / "app" / "cli" / "__init__.py").touch()
    (project / "app" / "cli" / "key.py").write_text("import a_package_that_is_missing\n", "utf-8")
    done = run(project, "-m", "streaming_inference", "key")
    assert done.returncode == 1 and "a_package_that_is_missing" in done.stderr
