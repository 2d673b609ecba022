"""Requests as tests need them."""

from __future__ import annotations

from typing import Any

import msgspec

from app.schema.requests import GenerationRequest
from app.schema.sampling import SamplingParams
from app.streams.store import StreamRecord


def request(prompt: str = "hello", **fields: Any) -> GenerationRequest:
    """A request for the fake model; sampling fields may be given beside the others."""
    names = SamplingParams.__struct_fields__
    sampling = {name: fields.pop(name) for name in names if name in fields and name != "seed"}
    fields.setdefault("model", "letters")
    return GenerationRequest(
        prompt=prompt, sampling=SamplingParams(**{"max_tokens": 0, **sampling}), **fields
    )


def record(stream_id: str, *, owner: str = "ann", **fields: Any) -> StreamRecord:
    """The record of a stream that asked for `request(**fields)`."""
    asked = request(**fields)
    return StreamRecord(
        id=stream_id,
        owner=owner,
        request=asked,
        prompt=[104, 105],
        sampling=msgspec.structs.replace(asked.sampling, max_tokens=16, seed=1),
        created_s=1_790_000_000.0,
    )
