"""The files of a model as far as the deployments read them themselves: where they are, its tokenizer, its limits."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import tokenizers

from app.errors import InvalidRequest
from app.ports import ModelCard
from app.schema.fields import GenerationFields
from app.schema.sampling import SamplingDefaults
from app.settings import ModelSettings, context_tokens
from app.validation import parse_object
from deployments.gguf.description import described
from deployments.gguf.header import is_gguf
from deployments.gguf.tokenizer import load_tokenizer as load_gguf_tokenizer
from deployments.grammar.compiler import UnsupportedTokenizer, read_vocabulary
from deployments.model import MODEL_DIR

if TYPE_CHECKING:
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

logger = logging.getLogger(__name__)

OWNER = "streaming-inference"
SIMULATED_OWNER = "simulated"
GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


def model_path(settings: ModelSettings) -> str:
    """The directory, GGUF file or Hub id of the model; the embedded one when none is named."""
    return str(MODEL_DIR) if settings.path is None else settings.path


def load_transformers_tokenizer(path: str) -> TokenizersBackend:
    """The tokenizer with its chat template. Raises `OSError` without files, `ValueError` for one that is not a fast one.

    A model that names the generic class gets it directly: `AutoTokenizer` would choose the same, and import torch first.
    """
    if is_gguf(path):
        return load_gguf_tokenizer(path)
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
    written = Path(path) if is_gguf(path) else Path(path) / "config.json"
    config = _read_json(path, "config.json")
    limits = config.get("text_config") or config
    longest = limits.get("max_position_embeddings") or limits.get("n_positions")
    simulated = settings.engine == "simulated"
    card = ModelCard(
        name=settings.name,
        # When the configuration or the GGUF file was written; now for a Hub id.
        created=int(written.stat().st_mtime) if written.is_file() else int(time.time()),
        owned_by=SIMULATED_OWNER if simulated else OWNER,
        max_model_len_tokens=context_tokens(longest, settings.max_model_len_tokens, settings.kv_cache_tokens),
        vocab_size=limits.get("vocab_size") or len(tokenizer),
        tokenizer_json=serialised(tokenizer),
        has_chat_template=tokenizer.chat_template is not None,
        sampling_defaults=read_sampling_defaults(path)
        if settings.sampling_defaults == "model"
        else SamplingDefaults(),
    )
    if simulated:
        return card
    try:
        read_vocabulary(card.tokenizer_json, card.vocab_size, read_end_ids(path, tokenizer))
    except UnsupportedTokenizer as error:
        logger.warning("the model %s has no structured output: %s", card.name, error)
        return card
    return msgspec.structs.replace(card, structured_output=True)


def serialised(tokenizer: TokenizersBackend) -> str:
    """The text of a `tokenizer.json` that neither cuts nor pads."""
    return bare_copy(tokenizer.backend_tokenizer.to_str()).to_str()


def read_sampling_defaults(path: str) -> SamplingDefaults:
    """What the model's generation_config.json says for requests that leave it out. As in vLLM, `do_sample` changes nothing.

    Raises `ValueError` for a value that a request may not have.
    """
    written = _read_json(path, "generation_config.json")
    names = SamplingDefaults.__struct_fields__
    try:
        fields = parse_object(GenerationFields, {name: written.get(name) for name in names})
    except InvalidRequest as error:
        place = "general.sampling" if is_gguf(path) else "generation_config.json"
        raise ValueError(
            f"{path}, {place}: {error.message} With sampling_defaults: none it is not read."
        ) from error
    sampling = fields.sampling()
    return SamplingDefaults(**{name: getattr(sampling, name) for name in names})


def read_end_ids(path: str, tokenizer: TokenizersBackend | None = None) -> frozenset[int]:
    """The tokens with which the model ends by itself: those of its generation configuration, its configuration and its tokenizer,
    and the special token that its chat template puts after an answer. Empty where the files say nothing.

    The files are often at odds: a fine-tune for chats may have the generation configuration of its base model. `tokenizer` is the
    model's, if it is loaded already.
    """
    tokenizer = tokenizer or load_transformers_tokenizer(path)
    config = _read_json(path, "config.json")
    texts = config.get("text_config") or {}
    sources = (_read_json(path, "generation_config.json"), config, texts)
    ids: set[int] = set()
    for written in (source.get("eos_token_id") for source in sources):
        ids.update(written if isinstance(written, list) else () if written is None else (written,))
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return frozenset(ids | _turn_end_ids(tokenizer))


def _turn_end_ids(tokenizer: TokenizersBackend) -> set[int]:
    """The id of the special token after an assistant's message, if the chat template puts one there."""
    answer = "The answer is 42."
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": answer}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception as error:  # a template may be missing, broken, or refuse such a chat
        logger.info("the chat template shows no end of a turn: %r", error)
        return set()
    _, found, after = rendered.rpartition(answer)
    special = {
        token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    ends = {token_id for token_id, text in special.items() if found and after.lstrip().startswith(text)}
    return {max(ends, key=lambda token_id: len(special[token_id]))} if ends else set()


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
    """One of the model's files, or what a GGUF file says in its place; nothing where it has none."""
    if is_gguf(path):
        return described(path, name)
    from transformers.utils.hub import cached_file

    found = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    read: dict[str, Any] = json.loads(Path(found).read_text(encoding="utf-8")) if found else {}
    return read
