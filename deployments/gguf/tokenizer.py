"""The tokenizer of a GGUF file, as transformers makes it of the file's vocabulary. Imports no torch."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import pre_tokenizers

from deployments.gguf.header import read_header

if TYPE_CHECKING:
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

logger = logging.getLogger(__name__)

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
# transformers splits the texts of a byte-level vocabulary as GPT-2 does, unless it knows better. For these that is right.
SPLIT_AS_GPT2 = {"gpt-2", "jais", "mpt", "olmo", "phi-2"}
# These let each digit stand alone before.
SPLIT_DIGITS = {"command-r", "refact", "smollm", "starcoder"}


def load_tokenizer(path: str) -> TokenizersBackend:
    """The tokenizer with its chat template. Raises `OSError` without a file, and `ValueError` for one without a tokenizer that
    can be made.
    """
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_TOKENIZER_MAPPING,
        convert_gguf_tokenizer,
    )
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    header = read_header(path)
    vocabulary, options = (
        {
            name: header.metadata[f"tokenizer.{key}"]
            for key, name in GGUF_TOKENIZER_MAPPING[kind].items()
            if f"tokenizer.{key}" in header.metadata
        }
        for kind in ("tokenizer", "tokenizer_config")
    )
    if "tokens" not in vocabulary:
        raise ValueError(f"{path} is a GGUF file without a tokenizer (tokenizer.ggml.tokens)")
    kind = vocabulary.get("tokenizer_type")
    # As transformers does: a vocabulary from SentencePiece has BOS first unless the file says otherwise; the template of Gemma 4
    # writes it.
    options["add_bos_token"] = kind != "gemma4" and options.get("add_bos_token", kind == "llama")
    try:
        backend, _ = convert_gguf_tokenizer(header.architecture, vocabulary)
        named = {
            name: vocabulary["tokens"][vocabulary[f"{name}_id"]]
            for name in NAMED_TOKENS
            if f"{name}_id" in vocabulary
        }
        backend = _without_other_tokens(backend, len(vocabulary["tokens"]))
        if kind == "gpt2":
            _split(path, backend, vocabulary)
        tokenizer: TokenizersBackend = TokenizersBackend(tokenizer_object=backend, **named, **options)
    except Exception as error:
        raise ValueError(f"{path} is a GGUF file whose tokenizer can't be made: {error!r}") from error
    return tokenizer


def _without_other_tokens(backend: tokenizers.Tokenizer, size: int) -> tokenizers.Tokenizer:
    """The tokenizer with the first `size` ids only. transformers' classes add tokens of their own (`<|endoftext|>`) to a
    vocabulary without, and the model has no embedding for them.
    """
    if backend.get_vocab_size() <= size:
        return backend
    written = json.loads(backend.to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["id"] < size]
    return tokenizers.Tokenizer.from_str(json.dumps(written))


def _split(path: str, backend: tokenizers.Tokenizer, vocabulary: dict[str, Any]) -> None:
    """Splits texts as the model's own tokenizer does, where transformers does not know how."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    name = vocabulary.get("pre_tokenizer_type", "gpt-2")
    if name in SPLIT_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        rest = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    elif name not in GGUF_PRE_TOKENIZER_SPLITS and name not in SPLIT_AS_GPT2:
        logger.warning(
            "%s: how its tokenizer (tokenizer.ggml.pre: %s) splits texts is not known. GPT-2's way is taken, and the model may "
            "get other tokens than it has learnt",
            path,
            name,
        )
