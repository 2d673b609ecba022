from __future__ import annotations

from tokenizers import Tokenizer, pre_tokenizers

from app.text.vocabulary import vocabulary_of


def test_one_vocabulary_for_each_tokenizer(byte_level: Tokenizer, metaspace: Tokenizer) -> None:
    assert vocabulary_of(byte_level) is vocabulary_of(byte_level)
    assert vocabulary_of(byte_level) is not vocabulary_of(metaspace)
    assert vocabulary_of(byte_level).byte_level
    assert not vocabulary_of(metaspace).byte_level


def test_every_byte_has_its_character(byte_level: Tokenizer) -> None:
    vocabulary = vocabulary_of(byte_level)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    assert len(alphabet) == 256
    ids = [byte_level.token_to_id(char) for char in alphabet]
    found = {vocabulary.token_bytes(token_id) for token_id in ids if token_id is not None}
    assert found == {bytes([byte]) for byte in range(256)}


def test_special_tokens_have_a_name_and_no_text(tokenizer: Tokenizer) -> None:
    vocabulary = vocabulary_of(tokenizer)
    special = [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    assert special
    for token_id in special:
        assert vocabulary.is_special(token_id)
        assert not vocabulary.is_text(token_id)
        assert vocabulary.token_text(token_id) == tokenizer.id_to_token(token_id)


def test_added_tokens_are_text(byte_level: Tokenizer, metaspace: Tokenizer) -> None:
    for tokenizer in (byte_level, metaspace):
        token_id = tokenizer.encode("<tool call>", add_special_tokens=False).ids[-1]
        assert vocabulary_of(tokenizer).text_or_bytes(token_id) == "<tool call>"
        assert vocabulary_of(tokenizer).token_text(token_id) == "<tool call>"


def test_the_plain_token_is_plain(tokenizer: Tokenizer) -> None:
    (token_id,) = vocabulary_of(tokenizer).plain_token
    assert tokenizer.decode([token_id]).isalpha()
