from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deployments.engine.loading import load_engine
from deployments.engine.threads import SMALL_MODEL_PARAMETERS, Threads, usable_cores
from tests.deployments.engine.harness import CONFIG, make_model

BIG = 380_000_000


@pytest.mark.parametrize(
    ("threads", "parameters", "cores", "wanted"),
    [
        (Threads("auto", 1), BIG, 16, 16),
        (Threads("auto", 2), BIG, 16, 8),
        (Threads("auto", 2), BIG, 2, 1),
        (Threads("auto", 3), BIG, 2, 1),
        (Threads("auto", 10, 8.0), BIG, 16, 8),
        (Threads("auto", 4, 32.0), BIG, 16, 16),
        (Threads("auto", 1), SMALL_MODEL_PARAMETERS - 1, 16, 1),
        (Threads(3, 2), 1_000, 2, 3),
    ],
)
def test_the_number_follows_from_configuration_machine_and_model(
    threads: Threads, parameters: int, cores: int, wanted: int
) -> None:
    assert threads.number(parameters, cores) == wanted


@pytest.mark.parametrize(
    ("quota", "wanted"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("", None)]
)
def test_a_container_quota_counts(tmp_path: Path, quota: str, wanted: int | None) -> None:
    everything = usable_cores(tmp_path)
    assert everything >= 1
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path) == (wanted or everything)


def test_the_threads_are_set_before_the_model_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model().save_pretrained(tmp_path)
    calls: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    load_engine(str(tmp_path), CONFIG, device="cpu", threads=Threads(2, 1))
    assert calls == [2]
