from __future__ import annotations

from typing import Any

import pytest
import torch

from deployments.engine import self_test
from deployments.engine.attention import ExtentStep, Heads, ShapeProbe
from deployments.engine.batch_invariant import make_batch_invariant
from deployments.engine.self_test import unequal_attention, unequal_products
from tests.deployments.engine.harness import make_model

CPU = torch.device("cpu")


class ByRows(torch.nn.Linear):
    """What it gives depends on the number of rows by the last bit, as a product that another kernel computes."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        product = super().forward(rows)
        return torch.nextafter(product, product + 1) if len(rows) < 4 else product


def probed(**shape: Any) -> ShapeProbe:
    """As a model with one layer would have it."""
    probe = ShapeProbe()
    key = torch.zeros(2, 2, 16)
    fields: dict[str, Any] = {"scale": None, "window": None, "softcap": None, "sinks": None, **shape}
    probe.attend(0, Heads(torch.zeros(2, 4, 16), **fields), key, key)
    return probe


def test_a_model_with_packed_products_passes() -> None:
    model = make_model()
    make_batch_invariant(model)
    assert unequal_products(model) is None


def test_a_product_that_depends_on_the_number_of_rows_is_named() -> None:
    model: Any = make_model()
    make_batch_invariant(model)
    model.model.layers[1].mlp.gate_proj = ByRows(32, 56, bias=False)
    assert unequal_products(model, 4) is None
    assert unequal_products(model) == (
        "the products of model.layers.1.mlp.gate_proj (56 x 32) with other numbers of rows"
    )


@pytest.mark.parametrize(
    "shape",
    [{}, {"window": 100}, {"softcap": 30.0}, {"sinks": torch.zeros(4)}, {"scale": 0.5}],
    ids=["plain", "window", "softcap", "sinks", "scale"],
)
def test_attention_passes(shape: dict[str, Any]) -> None:
    assert unequal_attention(probed(**shape), CPU) is None


def test_attention_that_depends_on_the_size_of_a_chunk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class BySize(ExtentStep):
        def attend(self, layer: int, query: Heads, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            out = super().attend(layer, query, key, value)
            return torch.nextafter(out, out + 1) if len(out) > 500 else out

    monkeypatch.setattr(self_test, "ExtentStep", BySize)
    assert unequal_attention(probed(), CPU) == "the attention of layer 0 in other chunks"
