"""Requests as tests need them."""

from __future__ import annotations

from typing import Any

from app.schema.requests import GenerationRequest
from app.schema.sampling import SamplingParams


def request(prompt: str = "hello", **fields: Any) -> GenerationRequest:
    """A request for the fake model; sampling fields may be given beside the others."""
    names = SamplingParams.__struct_fields__
    sampling = {name: fields.pop(name) for name in names if name in fields and name != "seed"}
    fields.setdefault("model", "letters")
    return GenerationRequest(
        prompt=prompt, sampling=SamplingParams(**{"max_tokens": 0, **sampling}), **fields
    )
