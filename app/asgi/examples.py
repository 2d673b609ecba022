"""The examples of the OpenAPI document: one stream, from which the encoders and folds make what each route answers; errors."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from app.errors import (
    BodyTooLarge,
    GeneratorUnavailable,
    IdempotencyConflict,
    InternalError,
    InvalidCursor,
    InvalidRequest,
    ModelNotFound,
    ServiceError,
    StreamExpired,
    StreamNotFound,
    TooManyReaders,
    UnsupportedMediaType,
)
from app.ports import ModelCard
from app.schema.frames import ChoiceEnd, Delta, End, Frame, Start, Timings, Usage
from app.streams.status import StreamStatus

MODEL = ModelCard(
    name="storyteller",
    created=1790000000,
    owned_by="streaming-inference",
    max_model_len_tokens=2048,
    vocab_size=8192,
    tokenizer_json="",
    has_chat_template=True,
    deterministic=True,
)
STREAM = "st_00112233445566778899aabbccddeeff"
_CHOICES = [ChoiceEnd(0, "stop", None)]
_USAGE = Usage(prompt_tokens=17, completion_tokens=2, total_tokens=19)
FRAMES: Sequence[Frame] = (
    Start("0", STREAM, MODEL.name, MODEL.created, seed=1234, prompt_tokens=17, deterministic=True),
    Delta("2", 0, "Once there", tokens=2),
    End("2", _CHOICES, _USAGE, Timings(0.4, 9.1, 31.0, 64.5), [sha256(b"Once there").hexdigest()]),
)
STATUS = StreamStatus(
    stream=STREAM,
    model=MODEL.name,
    created=MODEL.created,
    state="ended",
    cursor="2",
    usage=_USAGE,
    expires_at=MODEL.created + 600,
    choices=_CHOICES,
    error=None,
)

# What an error says is an example of its own. Of classes that are not here, the docstring is.
ERRORS: dict[type[ServiceError], ServiceError] = {
    type(error): error
    for error in (
        InvalidRequest("max_tokens must be at least 1, not 0.", param="max_tokens"),
        ModelNotFound(
            "The model 'unknown' does not exist. GET /v1/models lists those that do.", param="model"
        ),
        StreamNotFound("There is no such stream."),
        StreamExpired("The stream is past its retention."),
        InvalidCursor("The cursor 9 is beyond the stream, which is at 2.", param="after"),
        IdempotencyConflict("This Idempotency-Key was used for another body.", param="Idempotency-Key"),
        TooManyReaders("The stream has 8 readers already."),
        BodyTooLarge("The body is larger than 1048576 bytes."),
        UnsupportedMediaType("Send the body with content-type: application/json.", param="content-type"),
        GeneratorUnavailable("No stream can start at the moment."),
        InternalError("The server failed to handle the request."),
    )
}


def folded(fold: Any) -> Any:
    """What `fold` makes of the example stream."""
    for frame in FRAMES:
        fold.add(frame)
    return fold.result()
