from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gguf import header
from deployments.gguf.header import GgufHeader, is_gguf, read_header
from deployments.model.files import read_end_ids
from tests.deployments.gguf.harness import CONTEXT, TOKENS, header_bytes, make_llama, text, write_gguf

STRING, U32, ARRAY = 8, 4, 9
ARCHITECTURE = text("general.architecture") + struct.pack("<I", STRING) + text("llama")
LONG = 2**62


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_gguf(tmp_path_factory.mktemp("gguf") / "a.gguf", make_llama()))


def read(directory: Path, content: bytes) -> GgufHeader:
    path = directory / "damaged.gguf"
    path.write_bytes(content)
    return read_header(str(path))


def test_a_path_names_its_format() -> None:
    assert is_gguf("/models/x.gguf")
    assert not is_gguf("/models/x") and not is_gguf("org/x-gguf")


def test_metadata_and_tensors(written: Path) -> None:
    found = read_header(str(written))
    assert found.architecture == "llama"
    assert found.of_model("context_length") == CONTEXT
    assert found.metadata["tokenizer.ggml.tokens"] == TOKENS
    assert found.metadata["tokenizer.ggml.add_bos_token"] is False
    assert found.metadata["llama.rope.freq_base"] == 5000.0
    norm = found.tensors["output_norm.weight"]
    assert (norm.type, norm.end - norm.start) == ("F32", 32 * 4)
    assert (
        written.read_bytes()[norm.start : norm.end]
        == make_llama().model.norm.weight.detach().numpy().tobytes()
    )


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.gguf"):
        read_header(str(tmp_path / "nothing.gguf"))
    (tmp_path / "directory.gguf").mkdir()
    with pytest.raises(IsADirectoryError, match=r"directory\.gguf"):
        read_header(str(tmp_path / "directory.gguf"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a GGUF file: it begins with b''"),
        (b"GG", "is not a GGUF file"),
        (b"\x80\x02PK weights", r"is not a GGUF file: it begins with b'\\x80\\x02PK'"),
        (b"<html>404</html>", "is not a GGUF file: it begins with b'<htm'"),
        (b"GGUF", "can't be loaded: it is cut short"),
        (header_bytes(version=1), "version 1 of the format, and 2 and 3 are known"),
        (header_bytes(), r"no general\.architecture"),
        (header_bytes(text("a") + struct.pack("<I", 77)), "a value of the type 77"),
        (header_bytes(struct.pack("<Q", LONG) + b"a"), f"{LONG} bytes should follow byte 32"),
        (header_bytes(text("a") + struct.pack("<IIQ", ARRAY, STRING, LONG)), "cut short or damaged"),
        (header_bytes(text("a") + struct.pack("<IIQ", ARRAY, U32, LONG)), "cut short or damaged"),
        (header_bytes(text("a") + struct.pack("<IIQ", ARRAY, ARRAY, 1)), "a value of the type 9"),
        (header_bytes(struct.pack("<Q", 2) + b"\xff\xff" + struct.pack("<II", U32, 0)), "utf-8"),
        (
            header_bytes(ARCHITECTURE, text("split.count") + struct.pack("<II", U32, 3)),
            "one of 3 parts, which llama-gguf-split --merge joins",
        ),
        (
            header_bytes(ARCHITECTURE, text("general.alignment") + struct.pack("<II", U32, 0)),
            "alignment is 0",
        ),
        (
            header_bytes(ARCHITECTURE, tensors=1) + text("t") + struct.pack("<IQIQ", 1, 8, 99, 0),
            "99 is not a valid",
        ),
        (
            header_bytes(ARCHITECTURE, tensors=1) + text("t") + struct.pack("<IQIQ", 1, LONG, 0, 0),
            "is cut short",
        ),
        (header_bytes(ARCHITECTURE, tensors=LONG), "cut short or damaged"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^{tmp_path}/damaged\.gguf .*{reason}"):
        read(tmp_path, content)


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, written: Path, share: float
) -> None:
    content = written.read_bytes()
    with pytest.raises(ValueError, match=r"damaged\.gguf is (not )?a GGUF file"):
        read(tmp_path_factory.getbasetemp(), content[: int(len(content) * share)])


@given(data=st.data())
def test_a_file_with_other_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, written: Path, data: st.DataObject
) -> None:
    content = bytearray(written.read_bytes())
    ends = min(tensor.start for tensor in read_header(str(written)).tensors.values())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, ends - 1))] = data.draw(st.integers(0, 255))
    try:
        read(tmp_path_factory.getbasetemp(), bytes(content))
    except ValueError as error:
        assert "damaged.gguf is " in str(error)


def test_without_the_packages_the_extra_is_named(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "find_spec", lambda name: None if name == "accelerate" else object())
    with pytest.raises(
        ValueError, match=r"a\.gguf .*not installed \(accelerate\): pip install 'streaming-inference\[gguf\]'"
    ):
        read_end_ids(str(written))
