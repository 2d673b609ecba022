"""The weights of a GGUF file as a transformers model. The file's blocks are unpacked: the model has the size of its dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedModel

from deployments.gguf.header import GgufHeader, GgufTensor, read_header

PLAIN_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NEEDED = ("block_count", "context_length", "embedding_length")
ROTARY_FACTORS = "rope_freqs.weight"
MAX_NAMES = 3


def load_model(path: str, dtype: torch.dtype | Literal["auto"]) -> PreTrainedModel:
    """The model, evaluated eagerly. `dtype` auto: that of the file's weights, bfloat16 for quantized ones.

    Raises `OSError` without a file, and `ValueError` for one that can't be loaded.
    """
    header = read_header(path)
    # What transformers would not notice.
    if missing := [key for key in NEEDED if header.of_model(key) is None]:
        raise ValueError(f"its metadata has no {header.architecture}.{missing[0]}")
    scaling = header.of_model("rope.scaling.type", "none")
    factors = [name for name in header.tensors if name.startswith("rope_factors")]
    if (scaling != "none" and header.architecture != "gpt-oss") or factors:
        raise ValueError(
            f"it scales positions ({header.architecture}.rope.scaling.type: {scaling}), which transformers leaves out for such "
            "files; the model's own files (a directory or a Hub id) can be served"
        )
    wanted = _dtype(header) if dtype == "auto" else dtype
    model: PreTrainedModel
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(Path(path).parent),
            gguf_file=str(Path(path).absolute()),
            quantization_config=GgufConfig(dequantize=True),
            dtype=wanted,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:  # of any kind, by what the file has or lacks
        raise ValueError(f"transformers does not load it: {error}") from error
    model, report = loaded
    # transformers would go on with random ones.
    if lacking := sorted(report["missing_keys"]):
        names = ", ".join(lacking[:MAX_NAMES]) + (", …" if len(lacking) > MAX_NAMES else "")
        raise ValueError(f"it lacks {len(lacking)} weights of {type(model).__name__} ({names})")
    if ROTARY_FACTORS in header.tensors:
        _stretch_positions(model, path, header.tensors[ROTARY_FACTORS])
    return model


def _dtype(header: GgufHeader) -> torch.dtype:
    types = {tensor.type for tensor in header.tensors.values()}
    if not types <= PLAIN_DTYPES.keys():
        return torch.bfloat16
    # Norms are F32 beside weights of half precision.
    return next((PLAIN_DTYPES[name] for name in ("BF16", "F16") if name in types), torch.float32)


def _stretch_positions(model: torch.nn.Module, path: str, place: GgufTensor) -> None:
    """Divides the rotary frequencies, as Llama 3.1 and later want it. transformers leaves the tensor out."""
    count = (place.end - place.start) // np.dtype(np.float32).itemsize
    factors = torch.from_numpy(np.fromfile(path, np.float32, count, offset=place.start))
    for module in model.modules():
        if isinstance(frequencies := getattr(module, "inv_freq", None), torch.Tensor):
            frequencies.div_(factors.to(frequencies))
