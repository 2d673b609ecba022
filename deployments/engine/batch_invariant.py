"""Makes a model batch-invariant on a CPU: a row of each of its products has the same bits whatever rows are computed with it.

Three things depend on the number of rows in PyTorch 2.13 on a CPU (measured on AVX2 and AVX-512 machines):

- A float32 matrix product. MKL computes 1 to 3 rows, or fewer than 4 rows per thread, in another order than more. Linear layers
  therefore get oneDNN's product with packed weights: one kernel for any number of rows, and faster up to 32 of them. Other
  float32 products get a multiple of 4 rows per thread.
- A product in half precision, if it is so small that oneDNN is not asked. The rows of a step are enough that it always is.
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
ALONE_ELEMENTS = 16384
"""The most elements for which GELU, the first of these functions to do so, does not let all threads take part."""
SMALL_PRODUCT = 16 * 16 * 16
"""So many multiplications of half precision are left to another kernel than more (`use_mkldnn_matmul` in PyTorch)."""
ROWS_PER_THREAD = 4
PACKED_FOR_ROWS = 32


def make_batch_invariant(model: PreTrainedModel) -> int:
    """Replaces what depends on the number of rows in `model`, which is on a CPU. Returns the number that a step's rows must be a
    multiple of. The number of threads must not change afterwards.
    """
    packs = model.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    widths = {int(model.config.get_text_config().hidden_size)}
    sizes: list[int] = []
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
                    sizes.append(weight.numel())
            elif type(child).__module__ in (activations.__name__, torch.nn.modules.activation.__name__):
                setattr(parent, name, AlignedActivation(child))
            elif not isinstance(child, torch.nn.Embedding):
                weights = (weight for weight in child.parameters(recurse=False) if weight.dim() > 1)
                sizes += [math.prod(weight.shape[-2:]) for weight in weights]
    if model._can_set_experts_implementation():
        model.set_experts_implementation(EXPERTS)
    if not sizes:
        return 1
    # Such a model may also have elementwise functions between its products that are no modules.
    rows = VECTOR_ELEMENTS // math.gcd(VECTOR_ELEMENTS, *widths)
    return math.lcm(rows, product_rows(model.dtype, min(sizes)))


def product_rows(dtype: torch.dtype, size: int) -> int:
    """A product with a weight of `size` elements has the same bits for each multiple of this number of rows."""
    if dtype == torch.float32:
        return ROWS_PER_THREAD * torch.get_num_threads()
    return 1 << (SMALL_PRODUCT // size).bit_length()


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
        # Of a part of wider rows each row would be a share of its own.
        flat = values.reshape(-1)
        count = flat.numel()
        threads = torch.get_num_threads()
        # Either one thread does it all, or each has whole shares.
        multiple = VECTOR_ELEMENTS if threads == 1 or count <= ALONE_ELEMENTS else threads * SHARE_ELEMENTS
        if rest := -count % multiple:  # without one, padding would copy for nothing
            flat = torch.nn.functional.pad(flat, (0, rest))
        return cast(torch.Tensor, self._function(flat))[:count].view(values.shape)


def expert_products(
    experts: Any, hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """The layer of experts of a mixture, as transformers calls it: a product for each expert that some token chose.

    `hidden`: (tokens, width); `top_k_index` and `top_k_weights`: (tokens, chosen), the experts of each token and their weights.
    Returns (tokens, width). A token's experts are added in the order of its choices.
    """
    first = (experts.gate_up_proj if experts.has_gate else experts.up_proj)[0]
    # Half of the first product is the gate, which goes through elementwise functions.
    gate_width = first.shape[-1 if experts.is_transposed else -2] // (2 if experts.has_gate else 1)
    size = min(first.numel(), experts.down_proj[0].numel())
    multiple = math.lcm(
        VECTOR_ELEMENTS // math.gcd(VECTOR_ELEMENTS, gate_width), product_rows(hidden.dtype, size)
    )
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
