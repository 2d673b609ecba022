"""The context of a gRPC call as Serve gives it to a method."""

from __future__ import annotations

import grpc


class FakeContext:
    """Implements `deployments.ingress.grpc_servicer.CallContext`. Keeps what the call says of its end."""

    def __init__(self, **metadata: str) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.trailing: dict[str, str] = {}
        self._metadata = [(name.replace("_", "-"), value) for name, value in metadata.items()]

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return [*self._metadata, ("trace-bin", b"\xff")]

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        self.trailing = dict(trailing_metadata)
