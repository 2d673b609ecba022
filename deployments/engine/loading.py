"""From a directory, a GGUF file or a Hub id to an engine that serves."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from deployments.engine.config import EngineConfig
from deployments.engine.engine import TransformersEngine
from deployments.engine.protocol import UnsupportedModel
from deployments.engine.threads import Threads, usable_cores
from deployments.gguf.header import is_gguf
from deployments.gguf.weights import load_model as load_gguf_model

logger = logging.getLogger(__name__)


def load_engine(
    path: str,
    config: EngineConfig,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: Threads | None = None,
    end_ids: frozenset[int] | None = None,
    tokenizer_json: str | None = None,
) -> TransformersEngine:
    """Loads the weights and checks the model. Raises `UnsupportedModel`, and `OSError` when there is no model
    at `path`.

    `device` is auto (CUDA if there is one), cpu or cuda; `dtype` is auto (as the weights say, bfloat16 for quantized ones of a
    GGUF file), float32, bfloat16 or float16. On a CPU that has no arithmetic of its own for half precision, auto means float32.
    With `threads`, the number of torch's threads is set for the process.
    `end_ids` are the engine's; None or none: those that the loaded model names. `tokenizer_json`: see `TransformersEngine`.
    """
    target = choose_device(device)
    wanted: torch.dtype | Literal["auto"] = "auto" if dtype == "auto" else getattr(torch, dtype)
    try:
        model: PreTrainedModel = (
            load_gguf_model(path, wanted)
            if is_gguf(path)
            else AutoModelForCausalLM.from_pretrained(path, dtype=wanted, attn_implementation="eager")
        )
    except ValueError as error:
        raise UnsupportedModel(f"{path} holds no language model that can be loaded: {error}") from error
    module: torch.nn.Module = model
    if dtype == "auto" and target.type == "cpu" and not cpu_computes(model.dtype):
        module.to(torch.float32)
    module.to(target)
    if threads is not None:
        number = threads.number(model.num_parameters(), usable_cores())
        torch.set_num_threads(number)
        logger.info("the engine computes with %d threads on %d cores", number, usable_cores())
    return TransformersEngine(model, config, end_ids=end_ids or None, tokenizer_json=tokenizer_json)


def choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


# Names in /proc/cpuinfo of the instructions that multiply bfloat16: of x86 (AVX-512 and AMX) and of ARM.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def cpu_computes(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices of `dtype` natively."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported() and not _BFLOAT16_FLAGS.isdisjoint(cpu_flags())
    if dtype == torch.float16:
        return "avx512_fp16" in cpu_flags()
    return True


def cpu_flags() -> set[str]:
    """The features of the CPU as Linux names them; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return set()
    return set(flags.partition(":")[2].split())
