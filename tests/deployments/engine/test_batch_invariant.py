from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from deployments.engine.batch_invariant import (
    SHARE_ELEMENTS,
    VECTOR_ELEMENTS,
    AlignedActivation,
    PackedLinear,
    make_batch_invariant,
    padded,
    product_rows,
)
from tests.deployments.engine.harness import MODELS, make_model


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_row_of_a_packed_layer_is_the_same_in_any_number_of_rows(threads: int, bias: bool) -> None:
    plain = torch.nn.Linear(576, 384, bias=bias)
    packed = PackedLinear(plain.weight, plain.bias)
    rows = numbers(70, 576)
    whole = packed(rows)
    torch.testing.assert_close(whole, plain(rows))
    for count in (1, 2, 3, 4, 5, 16, 33, 64):
        for start in (0, 70 - count):
            assert torch.equal(packed(rows[start : start + count]), whole[start : start + count])


@pytest.mark.parametrize("name", ["silu", "gelu_pytorch_tanh", "gelu"])
@torch.inference_mode()
def test_an_element_of_an_aligned_activation_is_the_same_in_any_number_of_rows(
    threads: int, name: str
) -> None:
    function = ACT2FN[name]
    aligned = AlignedActivation(function)
    width = 50  # no multiple of what a vector takes
    rows = numbers(5 * SHARE_ELEMENTS // width, width)
    whole = aligned(rows)
    assert whole.shape == rows.shape
    torch.testing.assert_close(whole, function(rows))
    for count in (1, 2, 7, SHARE_ELEMENTS // width + 3, 3 * SHARE_ELEMENTS // width):
        assert torch.equal(aligned(rows[:count]), whole[:count])
        assert torch.equal(aligned(rows[-count:]), whole[-count:])


def test_rows_are_padded_with_zeros() -> None:
    rows = torch.ones(5, 3)
    assert torch.equal(padded(rows, 4), torch.cat([rows, torch.zeros(3, 3)]))
    assert torch.equal(padded(rows, 5), rows)


def test_products_take_four_rows_for_each_thread(threads: int) -> None:
    assert product_rows(torch.float32, 1) == 4 * threads


@torch.inference_mode()
def test_small_products_in_half_precision_take_so_many_rows_that_one_kernel_computes_them() -> None:
    assert [product_rows(torch.bfloat16, size) for size in (1 << 20, 4097, 4096, 1024)] == [1, 1, 2, 8]
    for seed in range(20):
        torch.manual_seed(seed)
        weight = torch.randn(32, 32, dtype=torch.bfloat16)
        rows = torch.randn(64, 32, dtype=torch.bfloat16)
        whole = torch.nn.functional.linear(rows, weight)
        for count in (8, 16, 40):
            assert torch.equal(torch.nn.functional.linear(rows[:count], weight), whole[:count])


@pytest.mark.parametrize("name", MODELS)
def test_no_layer_of_a_model_in_float32_is_left(name: str) -> None:
    model: Any = make_model(name)
    rows = make_batch_invariant(model)
    kinds = {type(module) for module in model.modules()}
    assert PackedLinear in kinds and not kinds & {torch.nn.Linear, Conv1D}
    # Experts and the routers that choose them hold weights of their own, which are multiplied in a multiple of rows.
    assert (rows == 1) == (not name.endswith(("moe", "oss")))


def test_in_bfloat16_nothing_is_packed_and_rows_fill_the_vectors_of_elementwise_functions() -> None:
    model: Any = make_model()
    model.to(torch.bfloat16)
    rows = make_batch_invariant(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    widths = {layer.out_features for layer in model.modules() if isinstance(layer, torch.nn.Linear)}
    head = model.get_output_embeddings().out_features
    assert all(rows * width % VECTOR_ELEMENTS == 0 for width in widths - {head})


def test_a_layer_of_another_kind_gets_a_multiple_of_rows() -> None:
    class Scaled(torch.nn.Linear):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return super().forward(rows) * 2

    model: Any = make_model()
    build = partial(Scaled, bias=False)
    model.model.layers[0].mlp.up_proj = build(model.config.hidden_size, model.config.intermediate_size)
    assert make_batch_invariant(model) % product_rows(torch.float32, 1) == 0
    assert type(model.model.layers[0].mlp.up_proj) is Scaled
