"""The generated code is what the pinned compiler makes of the .proto file, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc_tools import protoc

ROOT = Path(__file__).parents[3]
SOURCE = "app/proto/generation.proto"
MADE = ["app/proto/generation_pb2.py", "app/proto/generation_pb2.pyi", "app/proto/generation_pb2_grpc.py"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which everything was made again, as `make proto` does."""
    folder = tmp_path_factory.mktemp("proto")
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    assert protoc.main(["protoc", f"-I{ROOT}", *outputs, str(ROOT / SOURCE)]) == 0
    return folder


@pytest.mark.parametrize("name", MADE)
def test_making_it_again_gives_the_same_bytes(made: Path, name: str) -> None:
    assert (made / name).read_bytes() == (ROOT / name).read_bytes(), "run `make proto`"


def test_every_message_service_and_field_says_what_it_is_for() -> None:
    """Fields whose names say all may go without, but no service, call or enum may."""
    lines = (ROOT / SOURCE).read_text().splitlines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line.strip().startswith("rpc ") and not above.strip().startswith("//")
    ]
    assert not bare
