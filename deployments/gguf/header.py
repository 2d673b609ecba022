"""The header of a GGUF file: its metadata, and where its tensors are. Reads no weights and imports no torch.

A damaged file raises an error that says what is wrong with it; no length in it is believed before the bytes are there. The reader
of the package gguf is ten times slower and takes some lengths as they are; that of transformers imports torch.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from typing import Any

PACKAGES = ("gguf", "accelerate")
"""What the loading of such files needs, besides transformers."""
MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
STRING, ARRAY = 8, 9
LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The types of a value but strings and arrays, by their numbers: as letters of `struct`."""
U32, U64 = 4, 10


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor with the name of its type (F32, Q4_1, …), and its bytes in the file."""

    type: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The metadata by its keys (`general.architecture`, `tokenizer.ggml.tokens`, …), and the tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    def of_model(self, key: str, default: Any = None) -> Any:
        """A value of the model's architecture: `context_length`, …"""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @classmethod
    def parse(cls, data: mmap.mmap) -> GgufHeader:
        """Raises `ValueError`, which does not name the file."""
        reader = _Reader(data, len(MAGIC))
        version = reader.scalar(U32)
        if version not in VERSIONS:
            raise ValueError(f"it has version {version} of the format, and 2 and 3 are known")
        tensor_count, value_count = reader.scalar(U64), reader.scalar(U64)
        metadata = {}
        for _ in range(value_count):
            key = reader.string()
            metadata[key] = reader.value(reader.scalar(U32))
        if not isinstance(metadata.get("general.architecture"), str):
            raise ValueError("its metadata has no general.architecture")
        parts = metadata.get("split.count", 1)
        if parts != 1:
            raise ValueError(f"it is one of {parts} parts, which llama-gguf-split --merge joins")
        tensors = dict(reader.tensor() for _ in range(tensor_count))
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"its general.alignment is {alignment!r}")
        start = -(-reader.position // alignment) * alignment
        end = start + max((tensor.end for tensor in tensors.values()), default=0)
        if end > len(data):
            raise ValueError(f"it is cut short: its tensors end at byte {end}, and it has {len(data)} bytes")
        return cls(
            metadata,
            {
                name: GgufTensor(each.type, start + each.start, start + each.end)
                for name, each in tensors.items()
            },
        )


def is_gguf(path: str) -> bool:
    """Whether a model's path names a GGUF file."""
    return path.endswith(".gguf")


def read_header(path: str) -> GgufHeader:
    """Raises `OSError` without a file, and `ValueError` for one that can't be loaded: the message names the file and says what is
    wrong, or which packages are missing.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(
            f"{path} is a GGUF file, and the packages for such files are not installed ({', '.join(missing)}): "
            "pip install 'streaming-inference[gguf]'"
        )
    with open(path, "rb") as file:
        begins = file.read(len(MAGIC))
        if begins != MAGIC:
            raise ValueError(f"{path} is not a GGUF file: it begins with {begins!r}, not with {MAGIC!r}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return GgufHeader.parse(data)
            except ValueError as error:
                raise ValueError(f"{path} is a GGUF file that can't be loaded: {error}") from error


class _Reader:
    """Reads `data` from `position` on. Raises `ValueError`."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self._data = data
        self.position = position

    def scalar(self, kind: int) -> Any:
        return self._scalars(kind, 1)[0]

    def string(self) -> str:
        return self._take(self.scalar(U64)).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.scalar(kind)
        kind, count = self.scalar(U32), self.scalar(U64)
        if kind == STRING:
            return [self.string() for _ in range(count)]
        return list(self._scalars(kind, count))

    def tensor(self) -> tuple[str, GgufTensor]:
        """The name of a tensor, and its bytes in the part of the file that has the tensors."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self.string()
        shape = self._scalars(U64, self.scalar(U32))
        kind, start = GGMLQuantizationType(self.scalar(U32)), self.scalar(U64)
        block, size = GGML_QUANT_SIZES[kind]
        return name, GgufTensor(kind.name, start, start + prod(shape) // block * size)

    def _scalars(self, kind: int, count: int) -> tuple[Any, ...]:
        if kind not in LETTERS:
            raise ValueError(f"it has a value of the type {kind}, which is not known")
        taken = self._take(count * struct.calcsize(f"<{LETTERS[kind]}"))
        return struct.unpack(f"<{count}{LETTERS[kind]}", taken)

    def _take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        if self.position > len(self._data):
            raise ValueError(
                f"it is cut short or damaged: {size} bytes should follow byte {start}, and it has {len(self._data)} bytes"
            )
        return self._data[start : self.position]
