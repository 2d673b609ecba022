"""Training rows: whole documents, labels on what the assistant says, and never a row without a label."""

import pytest
import torch
from tokenizers import Tokenizer

from deployments.model import MODEL_DIR
from deployments.model.training.corpus import Document, Message, conversations
from deployments.model.training.packing import IGNORED, Packer, encode
from deployments.model.training.tokenizer import BOS, EOS, special_id


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))


def test_labels_are_the_answers_and_their_ends(tokenizer: Tokenizer) -> None:
    document = Document((Message("user", "Hello!"), Message("assistant", "Hi! 😊")))
    encoded = encode(document, tokenizer)
    labels = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer.decode(labels, skip_special_tokens=False) == f"Hi! 😊{EOS}"
    assert len(encoded.ids) == len(encoded.labels)


def test_a_plain_text_is_labelled_from_its_first_word(tokenizer: Tokenizer) -> None:
    encoded = encode(Document(plain="Once upon a time."), tokenizer)
    assert encoded.ids[0] == special_id(tokenizer, BOS) and encoded.labels == [IGNORED, *encoded.ids[1:]]


def test_the_same_seed_packs_the_same_rows(tokenizer: Tokenizer) -> None:
    first, second = (Packer(conversations(3), tokenizer, 5).batch(2, 256) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("length", [128, 256, 1024])
def test_every_row_starts_a_document_and_has_labels(tokenizer: Tokenizer, length: int) -> None:
    packer = Packer(conversations(3), tokenizer, 5)
    for _ in range(12):
        ids, labels = packer.batch(2, length)
        assert ids.shape == labels.shape == (2, length)
        assert (ids[:, 0] == special_id(tokenizer, BOS)).all()
        assert (labels != IGNORED).any(dim=1).all()
        supervised = labels != IGNORED
        assert torch.equal(ids[supervised], labels[supervised])


def test_an_unknown_special_token_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(KeyError):
        special_id(tokenizer, "<|tool|>")
