"""Imports Ray Serve once. It uses parts of pydantic that are deprecated and says so on import, which no test should fail for."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray.serve  # noqa: F401
