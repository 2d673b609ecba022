"""Rules of the repository that no tool checks: sizes, names, and that what is imported is declared and pinned."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"]]
REQUIRED_BY_GGUF = [Requirement(line) for line in PROJECT["optional-dependencies"]["gguf"]]
REQUIRED_BY_TESTS = [Requirement(line) for line in PROJECT["optional-dependencies"]["test"]]
REQUIRED_BY_BENCHMARKS = [Requirement(line) for line in PROJECT["optional-dependencies"]["bench"]]
EVERYTHING_REQUIRED = {
    str(line): line for line in REQUIRED + REQUIRED_BY_GGUF + REQUIRED_BY_TESTS + REQUIRED_BY_BENCHMARKS
}
PACKAGES = ("app", "benchmarks", "deployments", "streaming_inference")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
# The programs that run in the environments of other clients import those, which are pinned beside them.
CLIENTS = ROOT / "tests/integration/clients"
BENCHMARKS = [path for path in SOURCES if path.is_relative_to(ROOT / "benchmarks")]
TESTS = [path for folder in ("examples", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70
MAX_ONE_CALLER_SHARE = 0.08
EMPTY_NAMES = {"util", "utils", "common", "helper", "helpers", "manager", "misc"}


def imported_packages(paths: list[Path]) -> dict[str, str]:
    """The top-level packages that the files import, each with one place that does."""
    found: dict[str, str] = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                found.setdefault(name.split(".")[0], f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_files_are_short_enough_to_hold_one_thing() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    long = [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > MAX_FILE_LINES]
    assert not long, "\n".join(long)


def test_functions_are_short() -> None:
    long = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)


def test_few_helpers_have_a_single_caller() -> None:
    """A private function that is called once, and named nowhere else, is worth its name only if it is a thought of its own.

    A name in another file counts unless that file has a function of this name itself.
    """
    trees = {path: ast.parse(path.read_text("utf-8")) for path in SOURCES if "pb2" not in path.name}
    named = {path: Counter(_names(tree)) for path, tree in trees.items()}
    defined = {path: {function.name for function in _functions(tree)} for path, tree in trees.items()}
    functions = 0
    helpers = []
    for path, tree in trees.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called = Counter(name for call in calls for name in _name(call.func))
        for function in _functions(tree):
            functions += 1
            name = function.name
            uses = sum(
                count[name] for file, count in named.items() if file == path or name not in defined[file]
            )
            if name.startswith("_") and not name.startswith("__") and uses == called[name] == 1:
                helpers.append(f"{path.relative_to(ROOT)}:{function.lineno}: {name}")
    share = len(helpers) / functions
    assert share <= MAX_ONE_CALLER_SHARE, f"{share:.2%} of {functions} functions:\n" + "\n".join(helpers)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        yield from _name(node)


def _name(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr


def test_names_of_modules_say_what_is_in_them() -> None:
    named = [path.relative_to(ROOT) for path in SOURCES + TESTS]
    empty = [str(path) for path in named if EMPTY_NAMES & set(re.split(r"[/_.]", str(path)))]
    assert not empty, "\n".join(empty)


@pytest.mark.parametrize(
    ("paths", "requirements"),
    [
        pytest.param(
            [path for path in SOURCES if path not in BENCHMARKS], REQUIRED + REQUIRED_BY_GGUF, id="packages"
        ),
        pytest.param(BENCHMARKS, REQUIRED + REQUIRED_BY_BENCHMARKS, id="benchmarks"),
        pytest.param(
            [path for path in TESTS if not path.is_relative_to(CLIENTS)],
            REQUIRED + REQUIRED_BY_TESTS,
            id="tests",
        ),
    ],
)
def test_what_is_imported_is_declared(paths: list[Path], requirements: list[Requirement]) -> None:
    declared = {canonicalize_name(requirement.name) for requirement in requirements}
    distributions = packages_distributions()
    undeclared = []
    for name, place in imported_packages(paths).items():
        if name in sys.stdlib_module_names or name in (*PACKAGES, "tests"):
            continue
        if not declared & {
            canonicalize_name(distribution) for distribution in distributions.get(name, [name])
        }:
            undeclared.append(f"{place}: {name}")
    assert not undeclared, "not in pyproject.toml:\n" + "\n".join(undeclared)


@pytest.mark.parametrize(
    "requirement", EVERYTHING_REQUIRED.values(), ids=lambda requirement: requirement.name
)
def test_what_is_declared_is_pinned_for_ci(requirement: Requirement) -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    version = versions.get(canonicalize_name(requirement.name))
    assert version is not None, "not in constraints.txt"
    assert requirement.specifier.contains(version), f"{version} is outside of {requirement.specifier}"
    assert "+" not in version, "a local version label binds the pin to one index"


def test_the_tests_install_what_gguf_files_need() -> None:
    assert set(map(str, REQUIRED_BY_GGUF)) <= set(map(str, REQUIRED_BY_TESTS))


def test_the_hooks_run_what_lint_runs() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert recipe is not None
    commands = recipe[1].replace("$(VENV)", ".venv").replace("\t", "").splitlines()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == commands


def test_the_guide_names_files_that_exist() -> None:
    named = re.findall(r"`([\w.-]+/[\w./-]*)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert len(named) > 30
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing, "\n".join(missing)


def test_the_changelog_has_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == PROJECT["version"]
