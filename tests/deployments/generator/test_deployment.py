"""From a model's directory to the engine of its generator."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from app.settings import ModelSettings
from deployments.engine.engine import TransformersEngine
from deployments.generator.deployment import build_engine
from deployments.model import MODEL_DIR


def test_the_engine_ends_with_the_tokens_of_all_files(tmp_path: Path) -> None:
    shutil.copytree(MODEL_DIR, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 9}))
    engine = build_engine(ModelSettings(path=str(tmp_path), device="cpu", dtype="float32"))
    assert isinstance(engine, TransformersEngine)
    assert engine._end_ids == {9, 2}
