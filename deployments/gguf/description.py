"""What a GGUF file says of its model in place of config.json and generation_config.json."""

from __future__ import annotations

from typing import Any

from deployments.gguf.header import read_header

END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Of a text, of a turn, and of a message that waits for a tool's answer."""
SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


def described(path: str, name: str) -> dict[str, Any]:
    """What the file `name` would have; nothing for other files than those two. Raises as `read_header` does."""
    header = read_header(path)
    if name == "config.json":
        ends = (header.metadata.get(f"tokenizer.ggml.{key}") for key in END_TOKENS)
        return {
            "max_position_embeddings": header.of_model("context_length"),
            "vocab_size": header.of_model(
                "vocab_size", len(header.metadata.get("tokenizer.ggml.tokens", ()))
            ),
            "eos_token_id": [token_id for token_id in ends if token_id is not None],
        }
    if name == "generation_config.json":
        found = {ours: header.metadata.get(f"general.sampling.{theirs}") for ours, theirs in SAMPLING.items()}
        # 0.6, where the file has the number of 32 bits next to it.
        return {
            ours: float(f"{value:.7g}") if isinstance(value, float) else value
            for ours, value in found.items()
            if value is not None
        }
    return {}
