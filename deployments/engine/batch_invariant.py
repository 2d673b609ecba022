"""Makes a model batch-invariant on a CPU: a row of each of its products has the same bits whatever rows are computed with it.

Two things depend on the number of rows in PyTorch 2.13 on a CPU (measured on AVX2 and AVX-512 machines):

- A float32 matrix product. MKL computes 1 to 3 rows, or fewer than 4 rows per thread, in another order than more. Linear layers
  therefore get oneDNN's product with packed weights: one kernel for any number of rows, and faster up to 32 of them. Other
  float32 products get a multiple of 4 rows per thread. In bfloat16 no number of rows differs.
- An elementwise function such as SiLU. Its vectors have up to 32 elements; the elements that are left over at the end of a
  thread's share are computed by another formula. Shares therefore end at a multiple of 32.

`deployments.engine.self_test` checks the result on the machine at hand.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel, activations
from transformers.integrations.moe import ExpertsInterface
from transformers.pytorch_utils import Conv1D

EXPERTS = "streaming_experts"
"""The name of `expert_products` among the implementations of experts in transformers."""

VECTOR_ELEMENTS = 32
"""The most elements that one turn of an elementwise loop takes: two vectors of AVX-512."""
SHARE_ELEMENTS = 32768
"""The fewest elements for which PyTorch lets one more thread take part in an elementwise function."""
ROWS_PER_THREAD = 4
PACKED_FOR_ROWS = 32


def make_batch_invariant(model: PreTrainedModel) -> int:
    """Replaces what depends on the number of rows in `model`, which is on a CPU. Returns the number that a step's rows must be a
    multiple of. The number of threads must not change afterwards.
    """
    packs = model.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    widths = {int(model.config.get_text_config().hidden_size)}
    loose = False
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear | Conv1D):
                weight = child.weight.t() if isinstance(child, Conv1D) else child.weight
                if child is not head:
                    widths.add(weight.shape[0])
                if packs and type(child) in (torch.nn.Linear, Conv1D):
                    setattr(parent, name, PackedLinear(weight, child.bias))
                else:
                    loose = True
            elif type(child).__module__ in (activations.__name__, torch.nn.modules.activation.__name__):
                setattr(parent, name, AlignedActivation(child))
            elif not isinstance(child, torch.nn.Embedding):
                loose |= any(parameter.dim() > 1 for parameter in child.parameters(recurse=False))
    if model._can_set_experts_implementation():
        model.set_experts_implementation(EXPERTS)
    if not loose:
        return 1
    # Such a model may also have elementwise functions between its products that are no modules.
    rows = VECTOR_ELEMENTS // math.gcd(VECTOR_ELEMENTS, *widths)
    return math.lcm(rows, product_rows()) if model.dtype == torch.float32 else rows


def product_rows() -> int:
    """A float32 product has the same bits for each multiple of this number of rows."""
    return ROWS_PER_THREAD * torch.get_num_threads()


def padded(rows: torch.Tensor, multiple: int) -> torch.Tensor:
    """`rows`: (count, width), followed by rows of zeros up to a multiple of `multiple`."""
    return torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % multiple))


class PackedLinear(torch.nn.Module):
    """A linear layer in float32 whose weight is kept in oneDNN's own layout alone."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """`weight`: (out_features, in_features), float32; `bias`: (out_features,)."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach(), requires_grad=False)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), PACKED_FOR_ROWS)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`rows`: (..., in_features), float32. Returns (..., out_features)."""
        product = torch.ops.mkldnn._linear_pointwise.default(rows, self._packed, self.bias, "none", [], "")
        return cast(torch.Tensor, product)


class AlignedActivation(torch.nn.Module):
    """An elementwise function whose threads' shares all end at a multiple of `VECTOR_ELEMENTS`."""

    def __init__(self, function: torch.nn.Module) -> None:
        super().__init__()
        self._function = function

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`values`: (any shape). Returns the same shape."""
        threads = torch.get_num_threads()
        count = values.numel()
        rest = -count % VECTOR_ELEMENTS
        shared = threads > 1 and count > SHARE_ELEMENTS
        if not rest and not shared:
            return cast(torch.Tensor, self._function(values))
        flat = values.reshape(-1)
        if rest:
            flat = torch.nn.functional.pad(flat, (0, rest))
        if not shared:
            return cast(torch.Tensor, self._function(flat))[:count].view(values.shape)
        # Whole turns of all threads, then a share for each of some threads, then what one thread does.
        turns = len(flat) - len(flat) % (threads * SHARE_ELEMENTS)
        shares = len(flat) - len(flat) % SHARE_ELEMENTS
        parts = [self._function(part) for part in flat.tensor_split([turns, shares]) if len(part)]
        return torch.cat(parts)[:count].view(values.shape)


def expert_products(
    experts: Any, hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """The layer of experts of a mixture, as transformers calls it: a product for each expert that some token chose.

    `hidden`: (tokens, width); `top_k_index` and `top_k_weights`: (tokens, chosen), the experts of each token and their weights.
    Returns (tokens, width). A token's experts are added in the order of its choices.
    """
    multiple = product_rows() if hidden.dtype == torch.float32 else 1
    results = hidden.new_zeros(*top_k_index.shape, hidden.shape[1])
    for expert in top_k_index.unique().tolist():
        if expert >= experts.num_experts:
            continue
        tokens, places = (top_k_index == expert).nonzero(as_tuple=True)
        rows = _product(
            experts,
            "gate_up_proj" if experts.has_gate else "up_proj",
            expert,
            padded(hidden[tokens], multiple),
        )
        rows = experts._apply_gate(rows) if experts.has_gate else experts.act_fn(rows)
        rows = _product(experts, "down_proj", expert, rows)
        if experts.has_post_expert_norm:
            rows = experts.post_expert_norm(rows)
        results[tokens, places] = (rows[: len(tokens)] * top_k_weights[tokens, places, None]).to(hidden.dtype)
    total = results[:, 0]
    for place in range(1, results.shape[1]):
        total = total + results[:, place]
    return total


def _product(experts: Any, name: str, expert: int, rows: torch.Tensor) -> torch.Tensor:
    """`rows`: (count, in_features). Returns (count, out_features): the product with the weight `name` of one expert."""
    weight = getattr(experts, name)[expert]
    bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    return linear(rows, weight.t() if experts.is_transposed else weight, bias)


ExpertsInterface.register(EXPERTS, expert_products)
