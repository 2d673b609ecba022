"""The public names of the package: which they are, that each is documented, and that they reach no private class."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import get_args, get_type_hints

import pytest

import streaming_inference

ROOT = Path(__file__).parents[2]
NAMES = """
    Client GenerationStream RequestFields RetryPolicy OnExit Clock
    Result ChoiceResult StreamStatus ModelInfo
    Frame Start Delta End Error ChoiceEnd ErrorDetail FinishReason Logprob TopLogprob Timings Usage
    Message ToolCall ToolCallPiece
    ClientError NotReachable GenerationFailed ProtocolError TextMismatch StreamClosed
    Refused InvalidRequest AuthenticationFailed NotAllowed NotFound Conflict Expired RateLimited Unavailable
""".split()
# Each is made by another public class, never by a caller.
MADE_ELSEWHERE = (streaming_inference.GenerationStream,)
CLASSES = [each for each in (getattr(streaming_inference, name) for name in NAMES) if inspect.isclass(each)]


def test_the_public_names_are_these() -> None:
    assert streaming_inference.__all__ == sorted(NAMES)
    found: dict[str, object] = {}
    exec("from streaming_inference import *", found)
    assert found.keys() - {"__builtins__"} == set(NAMES)
    assert set(NAMES) <= set(dir(streaming_inference))


def test_the_path_of_the_server_has_the_same_names() -> None:
    client = importlib.import_module("app.client")
    assert client.__all__ == streaming_inference.__all__
    assert all(getattr(client, name) is getattr(streaming_inference, name) for name in NAMES)


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Klient'"):
        _ = streaming_inference.Klient  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_public_class_says_what_it_is(kind: type) -> None:
    written = vars(kind).get("__doc__") or ""
    assert written and not written.startswith(f"{kind.__name__}("), "a dataclass writes that itself"
    undocumented = [
        name
        for name, member in members(kind)
        if inspect.isroutine(member) and name != "__init__" and not inspect.getdoc(member)
    ]
    assert not undocumented


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_in_the_document(name: str) -> None:
    text = (ROOT / "docs" / "client.md").read_text("utf-8")
    assert f"`{name}`" in text or f"`{name}(" in text


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_public_classes_reach_public_classes_only(kind: type) -> None:
    hinted: list[object] = [kind]
    for name, member in members(kind):
        function = member.fget if isinstance(member, property) else member
        if isinstance(function, FunctionType) and not (name == "__init__" and kind in MADE_ELSEWHERE):
            hinted.append(function)
    reached = {each for owner in hinted for hint in get_type_hints(owner).values() for each in classes(hint)}
    private = {each.__name__ for each in reached if each.__module__.split(".")[0] == "streaming_inference"}
    assert private <= set(NAMES)


def test_the_frames_load_no_http_client() -> None:
    """Every process of the server has the frames."""
    program = "import sys, streaming_inference.frames; print('httpx' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_the_packages_are_typed() -> None:
    assert all((ROOT / name / "py.typed").is_file() for name in ("app", "deployments", "streaming_inference"))


def members(kind: type) -> Iterator[tuple[str, object]]:
    """The public members that the class itself defines, and how it is made."""
    for name, member in vars(kind).items():
        if not name.startswith("_") or name == "__init__":
            yield name, member


def classes(hint: object) -> Iterator[type]:
    """The classes in a type hint."""
    if isinstance(hint, type):
        yield hint
    for argument in get_args(hint):
        yield from classes(argument)
