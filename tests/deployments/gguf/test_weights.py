from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from app.settings import ModelSettings
from deployments.engine.engine import TransformersEngine
from deployments.engine.loading import load_engine
from deployments.engine.protocol import UnsupportedModel
from deployments.generator.deployment import build_engine
from deployments.gguf.weights import load_model
from tests.deployments.engine.harness import CONFIG, answer_one, greedy, make_job
from tests.deployments.gguf.harness import CONTEXT, END, make_llama, write_gguf

PROMPT = [1, 9, 8, 7, 6, 5]
TYPES = gguf.GGMLQuantizationType


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        computed: torch.Tensor = model(torch.tensor([PROMPT])).logits
        return computed


@pytest.mark.parametrize("tied", [False, True])
def test_the_loaded_weights_are_those_that_were_written(tmp_path: Path, tied: bool) -> None:
    written = make_llama(tie_word_embeddings=tied)
    path = write_gguf(tmp_path / "a.gguf", written, leave_out=("output.weight",) if tied else ())
    model = load_model(path, "auto")
    assert model.dtype == torch.float32
    assert model.state_dict().keys() == written.state_dict().keys()
    for name, weights in written.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights), name
    assert torch.equal(logits(model), logits(written))
    assert (model.config.max_position_embeddings, model.config.eos_token_id) == (CONTEXT, END)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TYPES.F16, torch.float16),
        (TYPES.BF16, torch.bfloat16),
        (TYPES.Q8_0, torch.bfloat16),
        (TYPES.Q5_0, torch.bfloat16),
    ],
)
def test_auto_is_the_dtype_of_the_file_and_bfloat16_for_quantized_weights(
    tmp_path: Path, kind: gguf.GGMLQuantizationType, dtype: torch.dtype
) -> None:
    written = make_llama()
    path = write_gguf(tmp_path / "a.gguf", written, quantized=kind)
    assert load_model(path, "auto").dtype == dtype
    weights = load_model(path, torch.float32).state_dict()
    for name, original in written.state_dict().items():
        blocks = original.numpy()
        expected = gguf.dequantize(gguf.quantize(blocks, kind), kind) if blocks.ndim > 1 else blocks
        assert np.array_equal(weights[name].numpy(), expected), name


def test_the_engine_answers_as_with_the_written_model(tmp_path: Path) -> None:
    written = make_llama()
    path = write_gguf(tmp_path / "a.gguf", written)
    job = make_job(0, PROMPT, greedy(12, ignore_eos=True))
    expected = answer_one(TransformersEngine(written, CONFIG, end_ids=frozenset()), job).tokens
    engine = load_engine(path, CONFIG, device="cpu", dtype="float32")
    assert answer_one(engine, job).tokens == expected
    settings = ModelSettings(path=path, device="cpu", max_model_len_tokens=2048)
    built: Any = build_engine(settings)
    assert built._end_ids == {END}
    assert built._runner.max_model_len_tokens == CONTEXT


def test_positions_are_stretched_as_the_file_says(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 5000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    stretched = make_llama(rope_parameters=scaling)
    plain = make_llama()
    factors = (plain.model.rotary_emb.inv_freq / stretched.model.rotary_emb.inv_freq).numpy()
    assert factors.max() > 7
    path = write_gguf(tmp_path / "a.gguf", stretched, added={"rope_freqs.weight": factors})
    assert not torch.allclose(logits(plain), logits(stretched), atol=1e-4)
    assert torch.allclose(logits(load_model(path, "auto")), logits(stretched), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "nonsense"}, "architecture nonsense is not supported"),
        (
            {"leave_out": ("blk.1.ffn_up.weight",)},
            r"lacks 1 weights of LlamaForCausalLM \(model.layers.1.mlp.up_proj.weight\)",
        ),
        ({"values": {"llama.block_count": None}}, "no llama.block_count"),
        ({"values": {"llama.embedding_length": 64}}, "transformers does not load it"),
        ({"values": {"llama.rope.scaling.type": "yarn"}}, "scales positions .*yarn"),
        ({"added": {"rope_factors_long.weight": np.ones(4, np.float32)}}, "scales positions"),
    ],
)
def test_what_would_be_loaded_wrong_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write_gguf(tmp_path / "a.gguf", make_llama(), **changes)
    with pytest.raises(
        UnsupportedModel, match=rf"{path} holds no language model that can be loaded: .*{reason}"
    ):
        load_engine(path, CONFIG, device="cpu")
