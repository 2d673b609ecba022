from __future__ import annotations

import math

import msgspec
import pytest
from tokenizers import Tokenizer

from app.schema.frames import Logprob, TopLogprob
from app.schema.tokens import TokenLogprob
from app.text.logprobs import LOWEST_LOGPROB, LogprobWriter
from app.text.vocabulary import REPLACEMENT, vocabulary_of


def test_a_token_with_its_alternatives(byte_level: Tokenizer) -> None:
    fox, end = byte_level.encode(" fox<|end|>").ids
    written = LogprobWriter(byte_level).write(fox, TokenLogprob(-0.5, [(fox, -0.5), (end, -1.25)]))
    assert written == Logprob(
        " fox",
        -0.5,
        list(b" fox"),
        [TopLogprob(" fox", -0.5, list(b" fox")), TopLogprob("<|end|>", -1.25, list(b"<|end|>"))],
    )


def test_bytes_of_cut_characters_join(byte_level: Tokenizer, metaspace: Tokenizer) -> None:
    for tokenizer in (byte_level, metaspace):
        ids = tokenizer.encode("a 🪁", add_special_tokens=False).ids
        written = LogprobWriter(tokenizer).write_all(ids, [TokenLogprob(-1.0, [])] * len(ids))
        joined = b"".join(bytes(each.bytes or []) for each in written).decode()
        assert joined.strip() == "a 🪁"
        assert REPLACEMENT in written[-1].token
        assert [each.logprob for each in written] == [-1.0] * len(ids)


def test_a_token_reads_as_it_does_within_a_text(metaspace: Tokenizer) -> None:
    fox, newline = metaspace.token_to_id("▁fox"), metaspace.token_to_id("<0x0A>")
    assert fox is not None
    assert newline is not None
    written = LogprobWriter(metaspace).write(fox, TokenLogprob(0.0, []))
    assert (written.token, written.bytes) == (" fox", list(b" fox"))
    written = LogprobWriter(metaspace).write(newline, TokenLogprob(0.0, []))
    assert (written.token, written.bytes) == ("\n", [10])


def test_infinity_is_written_as_a_number(byte_level: Tokenizer) -> None:
    written = LogprobWriter(byte_level).write(5, TokenLogprob(-math.inf, [(6, -math.inf)]))
    assert (written.logprob, written.top_logprobs[0].logprob) == (LOWEST_LOGPROB, LOWEST_LOGPROB)
    assert b"null" not in msgspec.json.encode(written)


def test_every_token_and_any_wrong_id_can_be_written(tokenizer: Tokenizer) -> None:
    writer = LogprobWriter(tokenizer)
    for token_id in [*range(tokenizer.get_vocab_size()), -1, 10**6, 2**40]:
        written = writer.write(token_id, TokenLogprob(-1.0, []))
        assert written.bytes == list(vocabulary_of(tokenizer).token_bytes(token_id))
        if REPLACEMENT not in written.token:
            assert bytes(written.bytes or []).decode() == written.token


def test_lists_must_be_as_long_as_each_other(byte_level: Tokenizer) -> None:
    with pytest.raises(ValueError, match="shorter"):
        LogprobWriter(byte_level).write_all([1, 2], [TokenLogprob(-1.0, [])])
