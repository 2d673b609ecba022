"""Real tokenizers of the three common kinds, trained in a moment on a small text in many scripts."""

from __future__ import annotations

import functools
import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "Once upon a time there was a small fox who lived near the harbor and slept well that night.",
    "the the the and and then there that this these café naïve Zoë façade Übermut",
    "🎉🎉 party 🦊 fox 👩‍👩‍👧 family 👍🏽 ok ❤️",
    "日本語のテキスト 日本 東京 你好世界 你好",
    "Привет мир, как дела? мир мир Ελληνικά",
    '12 + 30 = 42. <b>bold</b> {"key": [1, 2]}\n\tcode(x)\n',
] * 4


@functools.cache
def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<tool call>", normalized=False), AddedToken("⟦é⟧", normalized=False)])
    return tokenizer


@functools.cache
def metaspace() -> Tokenizer:
    """As SentencePiece makes them: "▁" for a space, bytes for characters that are not in the vocabulary."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=220, limit_alphabet=45, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<tool call>", normalized=False)])
    return tokenizer


@functools.cache
def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=250, special_tokens=["[UNK]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


TOKENIZERS = {"byte_level": byte_level, "metaspace": metaspace, "word_piece": word_piece}


@pytest.fixture(params=TOKENIZERS, scope="session")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]()


@pytest.fixture(name="byte_level", scope="session")
def byte_level_fixture() -> Tokenizer:
    return byte_level()


@pytest.fixture(name="metaspace", scope="session")
def metaspace_fixture() -> Tokenizer:
    return metaspace()
