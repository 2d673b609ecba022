from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    NemotronConfig,
    NemotronForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.llama import modeling_llama

from deployments.engine.attention import ShapeProbe
from deployments.engine.batch_invariant import PackedLinear
from deployments.engine.kv_cache import LayerShape
from deployments.engine.model_runner import ModelRunner, check_layers, check_supported
from deployments.engine.protocol import UnsupportedModel
from tests.deployments.engine.harness import CONFIG, LAYER_TYPES, SHAPE, make_model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2)),
            "attention",
        ),
        (
            lambda: MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)),
            "attention",
        ),
        (
            lambda: T5ForConditionalGeneration(
                T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
            ),
            "attention|encoder",
        ),
        (
            # Its attention is a class of its own, which looks for no backend.
            lambda: NemotronForCausalLM(
                NemotronConfig(
                    vocab_size=50,
                    hidden_size=16,
                    intermediate_size=16,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    num_key_value_heads=2,
                )
            ),
            "NemotronForCausalLM can't be served: its layers don't run with this engine's attention",
        ),
        (lambda: cast(Any, make_model()).to(torch.float64), "float64"),
    ],
    ids=["bloom", "mamba", "t5", "nemotron", "float64"],
)
def test_a_model_that_cannot_be_served_is_refused(make: Any, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        ModelRunner(make(), CONFIG)


def test_other_kinds_of_layers_are_refused() -> None:
    model = make_model("gemma3")
    model.config.layer_types = ["sliding_attention", "chunked_attention", "linear_attention"]
    with pytest.raises(UnsupportedModel, match="chunked_attention, linear_attention"):
        check_supported(model)


def test_a_layer_that_hides_its_window_or_its_attention_is_refused() -> None:
    model = make_model("gemma3")
    probe = ShapeProbe()
    probe.shapes = dict.fromkeys(range(3), LayerShape(1, 8, 8, torch.float32))
    probe.windows = {0: 9, 1: None, 2: None}
    with pytest.raises(UnsupportedModel, match="layer 2 hides"):
        check_layers(model, probe)
    del probe.shapes[1]
    with pytest.raises(UnsupportedModel, match="not each of its 3 layers"):
        check_layers(model, probe)


def test_a_model_that_gives_other_logits_in_the_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: one whose rotation of queries and keys depends on how many tokens come at once."""
    rotate = modeling_llama.apply_rotary_pos_emb

    def depends_on_the_batch(query: torch.Tensor, key: torch.Tensor, *rest: Any) -> Any:
        return rotate(query * query.shape[2] ** 0.5, key, *rest)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", depends_on_the_batch)
    with pytest.raises(UnsupportedModel, match="other logits"):
        ModelRunner(make_model(), CONFIG)


def test_a_model_that_breaks_in_the_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LlamaForCausalLM.forward

    def breaks(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("attention_step") is not None and kwargs["input_ids"].shape[1] > 2:
            raise RuntimeError("no such shape")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", breaks)
    with pytest.raises(UnsupportedModel, match="can't be run"):
        ModelRunner(make_model(), CONFIG)


def gemma2() -> PreTrainedModel:
    """Soft-capped scores."""
    return Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=16, sliding_window=9, attn_logit_softcapping=2.0))


def gpt_oss() -> PreTrainedModel:
    """Attention sinks."""
    config = GptOssConfig(
        **{**SHAPE, "num_hidden_layers": 3},
        head_dim=16,
        sliding_window=9,
        layer_types=LAYER_TYPES,
        num_local_experts=2,
        num_experts_per_tok=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return GptOssForCausalLM(config)


@pytest.mark.parametrize("make", [gemma2, gpt_oss])
def test_soft_caps_and_sinks_pass_the_self_test(make: Any) -> None:
    """They do only if they are computed: the self-test compares with the model's own eager attention."""
    torch.manual_seed(0)
    model = make()
    model.train(False)
    runner = ModelRunner(model, CONFIG)
    assert runner.works()
    assert runner.kv_cache.used_tokens == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_the_self_test(dtype: torch.dtype) -> None:
    model: torch.nn.Module = make_model()
    model.to(dtype)
    assert isinstance(model, PreTrainedModel)
    runner = ModelRunner(model, CONFIG)
    assert runner.kv_cache.layers[0].keys.dtype == dtype


def test_the_model_bounds_the_length() -> None:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**{**SHAPE, "max_position_embeddings": 100}))
    model.train(False)
    assert ModelRunner(model, CONFIG).max_model_len_tokens == 100
    unset = msgspec.structs.replace(CONFIG, max_model_len_tokens=None)
    assert ModelRunner(model, unset).max_model_len_tokens == 100


def test_without_a_configured_length_one_sequence_fits_into_the_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = msgspec.structs.replace(CONFIG, max_model_len_tokens=None, kv_cache_tokens=192)
    assert ModelRunner(make_model(), config).max_model_len_tokens == 192
    assert "the context has the 192 tokens of kv_cache_tokens" in caplog.text


def test_without_batch_invariance_the_products_stay_and_nothing_is_promised() -> None:
    model = make_model()
    runner = ModelRunner(model, msgspec.structs.replace(CONFIG, batch_invariant=False))
    assert not runner.deterministic
    assert not any(isinstance(module, PackedLinear) for module in model.modules())

    model = make_model()
    ModelRunner(model, CONFIG)
    assert any(isinstance(module, PackedLinear) for module in model.modules())
