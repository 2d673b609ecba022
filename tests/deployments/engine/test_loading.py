from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from deployments.engine import loading
from deployments.engine.engine import TransformersEngine
from deployments.engine.loading import choose_device, load_engine
from deployments.engine.protocol import UnsupportedModel
from tests.deployments.engine.harness import CONFIG, answer_one, greedy, make_engine, make_job, make_model

PROMPT = [1, 2, 3, 4, 5]


def save(directory: Path, dtype: torch.dtype) -> str:
    model = make_model()
    module: torch.nn.Module = model
    module.to(dtype)
    model.generation_config.eos_token_id = 9
    model.save_pretrained(directory)
    return str(directory)


def dtype_of(engine: TransformersEngine) -> torch.dtype:
    return engine._runner.kv_cache.layers[0].keys.dtype


def test_a_saved_model_answers_as_before(tmp_path: Path) -> None:
    engine = load_engine(save(tmp_path, torch.float32), CONFIG, device="cpu")
    job = make_job(0, PROMPT, greedy(8, ignore_eos=True))
    assert answer_one(engine, job).tokens == answer_one(make_engine(), job).tokens
    assert engine._end_ids == {9}


def test_the_end_tokens_may_be_given(tmp_path: Path) -> None:
    path = save(tmp_path, torch.float32)
    assert load_engine(path, CONFIG, device="cpu", end_ids=frozenset({7, 8}))._end_ids == {7, 8}
    assert load_engine(path, CONFIG, device="cpu", end_ids=frozenset())._end_ids == {9}


@pytest.mark.parametrize(("native", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_weights_in_half_precision_are_widened_where_the_cpu_has_no_arithmetic_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(loading, "cpu_computes", lambda dtype: native)
    path = save(tmp_path, torch.bfloat16)
    assert dtype_of(load_engine(path, CONFIG, device="cpu")) == dtype


def test_a_named_dtype_is_taken_as_it_is(tmp_path: Path) -> None:
    engine = load_engine(save(tmp_path, torch.float32), CONFIG, device="cpu", dtype="bfloat16")
    assert dtype_of(engine) == torch.bfloat16


def test_single_precision_is_always_computed() -> None:
    assert loading.cpu_computes(torch.float32)
    assert isinstance(loading.cpu_computes(torch.bfloat16), bool)
    assert isinstance(loading.cpu_computes(torch.float16), bool)


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ({"fpu", "avx512f", "avx512_bf16"}, True),
        ({"fpu", "amx_tile", "amx_bf16"}, True),
        ({"fp", "asimd", "sve", "bf16"}, True),  # ARM: Graviton 3 and later
        ({"fpu", "avx2", "avx512f"}, False),
        ({"fpu", "avx_ne_convert"}, False),  # converts bfloat16, multiplies float32
        (set(), False),
    ],
)
def test_bfloat16_is_native_by_the_flags_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], native: bool
) -> None:
    monkeypatch.setattr(loading, "cpu_flags", lambda: flags)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    assert loading.cpu_computes(torch.bfloat16) == native
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not loading.cpu_computes(torch.bfloat16)


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_directory_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        load_engine(str(tmp_path / "nothing"), CONFIG)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no language model"):
        load_engine(str(tmp_path), CONFIG)


def test_a_model_that_cannot_be_served_is_refused(tmp_path: Path) -> None:
    BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UnsupportedModel, match="BloomForCausalLM"):
        load_engine(str(tmp_path), CONFIG)
