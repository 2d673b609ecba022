"""The files of a model as far as the deployments read them themselves: where they are, its tokenizer, its limits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from app.ports import ModelCard
from app.settings import ModelSettings
from deployments.model import MODEL_DIR

if TYPE_CHECKING:
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

OWNER = "streaming-inference"
SIMULATED_OWNER = "simulated"
GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


def model_path(settings: ModelSettings) -> str:
    """The directory or Hub id of the model; the embedded one when none is named."""
    return str(MODEL_DIR) if settings.path is None else settings.path


def load_transformers_tokenizer(path: str) -> TokenizersBackend:
    """The tokenizer with its chat template. Raises `OSError` without files, `ValueError` for one that is not a fast one.

    A model that names the generic class gets it directly: `AutoTokenizer` would choose the same, and import torch first.
    """
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    if _read_json(path, "tokenizer_config.json").get("tokenizer_class") in GENERIC_TOKENIZERS:
        generic: TokenizersBackend = TokenizersBackend.from_pretrained(path)
        return generic
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    if not isinstance(tokenizer, TokenizersBackend):
        raise ValueError(f"{path} has no fast tokenizer (tokenizer.json)")
    return tokenizer


def bare_copy(serialised: str) -> tokenizers.Tokenizer:
    """A tokenizer of its own from `tokenizer.json`'s text, that neither cuts nor pads."""
    tokenizer = tokenizers.Tokenizer.from_str(serialised)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def describe(settings: ModelSettings, tokenizer: TokenizersBackend) -> ModelCard:
    """The card of the model."""
    path = model_path(settings)
    written = Path(path) / "config.json"
    config = _read_json(path, "config.json")
    limits = config.get("text_config") or config
    longest = (
        limits.get("max_position_embeddings") or limits.get("n_positions") or settings.max_model_len_tokens
    )
    return ModelCard(
        name=settings.name,
        # When the configuration was written; now for a Hub id.
        created=int(written.stat().st_mtime) if written.is_file() else int(time.time()),
        owned_by=SIMULATED_OWNER if settings.engine == "simulated" else OWNER,
        max_model_len_tokens=min(settings.max_model_len_tokens, longest),
        vocab_size=limits.get("vocab_size") or len(tokenizer),
        tokenizer_json=bare_copy(tokenizer.backend_tokenizer.to_str()).to_str(),
        has_chat_template=tokenizer.chat_template is not None,
    )


def printable_token_ids(tokenizer: tokenizers.Tokenizer) -> list[int]:
    """The ids that stand for visible text by themselves, not for a part of a character; every id when there is none such."""
    ids = range(tokenizer.get_vocab_size())
    texts = tokenizer.decode_batch([[token_id] for token_id in ids], skip_special_tokens=True)
    return [
        token_id
        for token_id, text in zip(ids, texts, strict=True)
        if text.strip() and text.isprintable() and "\ufffd" not in text
    ] or list(ids)


def load_tokenizer(path: str) -> tokenizers.Tokenizer:
    """The bare tokenizer of a model, without the start-up cost of transformers where the file is at hand."""
    serialised = Path(path) / "tokenizer.json"
    if serialised.is_file():
        return bare_copy(serialised.read_text(encoding="utf-8"))
    return bare_copy(load_transformers_tokenizer(path).backend_tokenizer.to_str())


def _read_json(path: str, name: str) -> dict[str, Any]:
    """One of the model's files; nothing where it has none."""
    from transformers.utils.hub import cached_file

    found = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    read: dict[str, Any] = json.loads(Path(found).read_text(encoding="utf-8")) if found else {}
    return read
