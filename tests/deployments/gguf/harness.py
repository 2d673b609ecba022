"""GGUF files of a small random llama, written with the package gguf as llama.cpp's converter writes them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ Ġ", "h e", "l l", "he ll", "hell o", "Ġ hello", "Ġ 1"]
TOKENS = [
    *CONTROL,
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    *(merge.replace(" ", "") for merge in MERGES),
]
END = 2
CONTEXT = 96

TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def make_llama(**changes: Any) -> LlamaForCausalLM:
    """A random llama with untied embeddings."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "vocab_size": len(TOKENS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "eos_token_id": END,
        "attn_implementation": "eager",
    }
    model = LlamaForCausalLM(LlamaConfig(**options | changes))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.train(False)
    return model


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    *,
    architecture: str = "llama",
    quantized: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    values: dict[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    added: dict[str, np.ndarray[Any, Any]] | None = None,
) -> str:
    """Writes `model` with its matrices `quantized`. `values` replace or add metadata; None removes it. `leave_out`: tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in _metadata(model, architecture, values or {}).items():
        _add(writer, key, value)
    for name, tensor in _tensors(model):
        if name not in leave_out:
            kind = quantized if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
    for name, tensor in (added or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def _metadata(model: LlamaForCausalLM, architecture: str, values: dict[str, Any]) -> dict[str, Any]:
    config: Any = model.config
    written = {
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": config.num_attention_heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{architecture}.rope.freq_base": config.rope_parameters["rope_theta"],
        f"{architecture}.rope.dimension_count": config.head_dim,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3 if token in CONTROL else 1 for token in TOKENS],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
    return {key: value for key, value in (written | values).items() if value is not None}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    add[type(value)](key, value)


def _tensors(model: LlamaForCausalLM) -> list[tuple[str, np.ndarray[Any, Any]]]:
    config = model.config
    found = []
    for name, parameter in model.state_dict().items():
        base, _, kind = name.rpartition(".")
        tensor = parameter.float().numpy()
        if base.startswith("model.layers."):
            _, _, layer, part = base.split(".", 3)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = config.num_attention_heads if part[10] == "q" else config.num_key_value_heads
                # llama.cpp turns neighbouring dimensions of a head, transformers those half a head apart.
                halves = tensor.reshape(heads, 2, -1, tensor.shape[-1])
                tensor = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))
            found.append((f"blk.{layer}.{TENSORS[part]}.{kind}", tensor))
        else:
            found.append((f"{TENSORS[base]}.{kind}", tensor))
    return found


def header_bytes(*values: bytes, version: int = 3, tensors: int = 0) -> bytes:
    """The beginning of a file with the encoded metadata `values`."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(values)) + b"".join(values)


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()
