"""The options of the Serve handles that this project calls."""

from __future__ import annotations

from typing import Any

from ray.serve._private.constants import RAY_SERVE_USE_GRPC_BY_DEFAULT


def handle_options() -> dict[str, Any]:
    """Transport and serialization. They are explicit, because the defaults come from the process that first made the handle.

    Plain pickle is enough: arguments and results are bytes and builtins.
    """
    return {
        "_by_reference": not RAY_SERVE_USE_GRPC_BY_DEFAULT,
        "request_serialization": "pickle",
        "response_serialization": "pickle",
    }
