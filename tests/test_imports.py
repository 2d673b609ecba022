"""The direction of every import, read from the source: what each package may use, and that nothing goes in circles.

An import counts wherever it stands, in a function or under `TYPE_CHECKING` too; only for cycles does it matter that
these two do not run when the module is loaded.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("app", "benchmarks", "deployments", "streaming_inference")

# No module of the package imports any of these, by any name.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "app": ("ray", "torch", "transformers", "benchmarks", "deployments"),
    "app.text": ("app.asgi", "app.service", "fastapi", "starlette"),
    "app.wire": ("app.asgi", "app.service", "fastapi", "starlette"),
    "benchmarks.serve": ("ray", "torch", "transformers", "deployments"),
    "deployments": ("benchmarks",),
    "deployments.engine": ("ray", "starlette", "fastapi"),
    # A user's project may have a package `app` of its own.
    "streaming_inference": (
        "app",
        "deployments",
        "ray",
        "torch",
        "transformers",
        "fastapi",
        "starlette",
        "pydantic",
    ),
}

# The one module that may: what it imports of transformers imports no torch. It is loaded for models that need it.
EXEMPT = {("app.text.output_parser", "transformers.utils.chat_parsing")}
LOADED_ON_DEMAND = ("app.text.output_parser", "app.text.response_format")

# Of this project's own modules, those of the package import nothing but these.
ALLOWED: dict[str, tuple[str, ...]] = {
    "app.settings": (),
    "app.errors": ("app.schema",),
    "app.schema": ("app.schema", "app.errors", "app.settings", "streaming_inference.frames"),
    "deployments.engine": (
        "deployments.engine",
        "deployments.gguf",
        "deployments.grammar",
        "app.schema",
        "app.errors",
        "app.settings",
    ),
    "deployments.gguf": ("deployments.gguf",),
    "deployments.grammar": ("deployments.grammar", "app.errors", "app.schema"),
    "deployments.links": ("deployments.links", "app.wakeup"),
    "deployments.messages": ("deployments.messages", "app.schema", "app.errors", "app.ports"),
}

# One folder for each process: they have nothing in common but the messages and the links.
PROCESSES = ("ingress", "generator", "tokenizer", "stream_store")
FORBIDDEN |= {
    f"deployments.{process}": tuple(f"deployments.{other}" for other in PROCESSES if other != process)
    for process in PROCESSES
}


@dataclass(frozen=True)
class Import:
    """One imported name: by which module, on which line, and whether loading the module executes it."""

    importer: str
    target: str
    place: str
    at_load: bool


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project's packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(root: Path) -> list[Import]:
    """Every import statement of the project, its targets resolved to modules where the project has them."""
    known = modules(root)
    found = []
    for name, path in known.items():
        for node, at_load in _statements(ast.parse(path.read_text("utf-8")), True):
            place = f"{path.relative_to(root)}:{node.lineno}"
            for target in _targets(node, name, path.name == "__init__.py", known):
                found.append(Import(name, target, place, at_load))
    return found


def _statements(node: ast.AST, at_load: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_load
        else:
            yield from _statements(child, at_load and not _is_deferred(child))


def _is_deferred(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _targets(
    node: ast.Import | ast.ImportFrom, importer: str, is_package: bool, known: dict[str, Path]
) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parts = importer.split(".")
        parents = parts[: len(parts) - node.level + is_package]
        base = ".".join([*parents, base] if base else parents)
    for alias in node.names:
        submodule = f"{base}.{alias.name}"
        yield submodule if submodule in known else base


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def forbidden_imports(root: Path) -> list[str]:
    return [
        f"{found.place}: {package} must not import {target}, and this imports {found.target}"
        for package, targets in FORBIDDEN.items()
        for found in imports(root)
        for target in targets
        if is_in(found.importer, package)
        and is_in(found.target, target)
        and not any(
            found.importer == importer and is_in(found.target, allowed) for importer, allowed in EXEMPT
        )
    ]


def imports_against_the_direction(root: Path) -> list[str]:
    return [
        f"{found.place}: of this project, {package} may import only {', '.join(targets) or 'nothing'}, "
        f"and this imports {found.target}"
        for package, targets in ALLOWED.items()
        for found in imports(root)
        if is_in(found.importer, package)
        and found.target.split(".")[0] in PACKAGES
        and not any(is_in(found.target, target) for target in targets)
    ]


def package_of(module: str) -> str:
    """The first two components of the name: `app.streams`, `app.model`, `deployments.ingress`."""
    return ".".join(module.split(".")[:2])


def cycle(root: Path, node_of: Callable[[str], str] = str) -> list[str]:
    """The nodes of one import cycle, the first repeated at the end; empty when there is none. A node is a module or a package."""
    known = modules(root)
    graph: dict[str, set[str]] = {node_of(name): set() for name in known}
    for found in imports(root):
        importer, target = node_of(found.importer), node_of(found.target)
        if found.at_load and found.target in known and (importer != target or node_of is str):
            graph[importer].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        members: list[str] = error.args[1]
        return members[::-1]
    return []


def test_no_package_imports_what_it_must_not() -> None:
    assert not (wrong := forbidden_imports(ROOT)), "\n".join(wrong)


def test_dependencies_point_one_way() -> None:
    assert not (wrong := imports_against_the_direction(ROOT)), "\n".join(wrong)


def test_there_is_no_import_cycle() -> None:
    assert not (members := cycle(ROOT)), " imports ".join(members)


def test_there_is_no_cycle_of_packages() -> None:
    assert not (members := cycle(ROOT, package_of)), " imports ".join(members)


def test_loading_app_loads_no_ray_and_no_torch() -> None:
    """What `app` imports may itself import something heavy: only a fresh interpreter shows that."""
    names = [name for name in modules(ROOT) if is_in(name, "app") and name not in LOADED_ON_DEMAND]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(*sorted({'ray', 'torch', 'transformers', 'benchmarks', 'deployments'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_what_parses_outputs_loads_no_torch() -> None:
    program = (
        f"import sys, {', '.join(LOADED_ON_DEMAND)}\nprint(*sorted({{'ray', 'torch'}} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def write(root: Path, sources: dict[str, str]) -> None:
    for package in PACKAGES:
        (root / package).mkdir()
        (root / package / "__init__.py").touch()
    for name, source in sources.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, "utf-8")


@pytest.mark.parametrize(
    "source",
    [
        "import ray",
        "import ray.serve as serve",
        "from torch.nn import Module",
        "from deployments import builder",
        "def load():\n    import transformers",
        "class A:\n    async def load(self):\n        from ray import serve",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "try:\n    import ray\nexcept ImportError:\n    ray = None",
    ],
)
def test_a_forbidden_import_is_found_wherever_it_stands(tmp_path: Path, source: str) -> None:
    write(tmp_path, {"app/service.py": source, "deployments/builder.py": "import ray"})
    (message,) = forbidden_imports(tmp_path)
    assert message.startswith("app/service.py:")


def test_names_that_only_begin_alike_are_allowed(tmp_path: Path) -> None:
    write(tmp_path, {"app/service.py": "import rayon, torchvision.ops\nfrom app import deployments_of\n"})
    assert forbidden_imports(tmp_path) == []


@pytest.mark.parametrize(
    "source", ["from app.service import Service", "from .. import service", "import app.service"]
)
def test_an_import_against_the_direction_is_found(tmp_path: Path, source: str) -> None:
    write(tmp_path, {"app/service.py": "", "app/schema/__init__.py": "", "app/schema/frames.py": source})
    (message,) = imports_against_the_direction(tmp_path)
    assert message.startswith("app/schema/frames.py:1: ")
    assert message.endswith("this imports app.service")


def test_a_cycle_is_found_through_relative_imports_and_packages(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "app/a.py": "from .b import c",
            "app/b/__init__.py": "",
            "app/b/c.py": "from deployments import d",
            "deployments/d.py": "import app.a",
        },
    )
    members = cycle(tmp_path)
    assert members[0] == members[-1]
    assert set(members) == {"app.a", "app.b.c", "deployments.d"}
    assert "app.a imports app.b.c" in " imports ".join(members + members[1:])


def test_imports_that_do_not_run_at_load_make_no_cycle(tmp_path: Path) -> None:
    lazy = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from app.a import A\ndef f():\n    import app.a\n"
    write(tmp_path, {"app/a.py": "import app.b", "app/b.py": lazy})
    assert cycle(tmp_path) == []


def test_a_cycle_of_packages_is_found_though_no_module_is_in_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "app/model.py": "import app.streams.choice",
            "app/streams/__init__.py": "",
            "app/streams/choice.py": "",
            "app/streams/recorder.py": "import app.model",
        },
    )
    assert cycle(tmp_path) == []
    assert set(cycle(tmp_path, package_of)) == {"app.model", "app.streams"}


def test_processes_that_import_each_other_are_found(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "deployments/ingress/channel.py": "from deployments.generator import outbox",
            "deployments/generator/outbox.py": "",
            "deployments/generator/__init__.py": "",
        },
    )
    (message,) = forbidden_imports(tmp_path)
    assert message.startswith("deployments/ingress/channel.py:1: ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("deployments/links/server.py", "import deployments.messages.call"),
        ("deployments/messages/call.py", "from deployments.links import server"),
    ],
)
def test_what_both_ends_share_imports_no_sibling(tmp_path: Path, path: str, source: str) -> None:
    write(
        tmp_path,
        {"deployments/links/server.py": "", "deployments/messages/call.py": "", path: source},
    )
    (message,) = imports_against_the_direction(tmp_path)
    assert message.startswith(f"{path}:1: ")
