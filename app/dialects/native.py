"""The native dialect: a stream that is not streamed, as the one JSON that its frames add up to."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from app.errors import ServiceError, error_class
from app.schema.frames import ChoiceEnd, Delta, End, ErrorDetail, Frame, Start
from app.schema.stream_result import ChoiceResult, StreamResult
from streaming_inference.choice_fold import ChoiceFold

RETRY_AFTER_S = 1


class FrameFold:
    """Takes the frames of a stream one by one, from its start. The parts are complete once the end frame has come."""

    def __init__(self) -> None:
        self._start: Start | None = None
        self._end: End | None = None
        self._choices: dict[int, ChoiceFold] = {}

    def add(self, frame: Frame) -> None:
        """Takes the next frame. Raises the `ServiceError` that an error frame stands for."""
        if isinstance(frame, Delta):
            self._choices.setdefault(frame.index, ChoiceFold()).add(frame)
        elif isinstance(frame, Start):
            self._start = frame
        elif isinstance(frame, End):
            self._end = frame
        else:
            raise service_error(frame.error)

    def _parts(self) -> tuple[Start, End]:
        if self._start is None or self._end is None:
            raise ValueError("a stream can be folded when its start and its end are there")
        return self._start, self._end

    def _ended_choices(self, end: End) -> Iterator[tuple[ChoiceEnd, ChoiceFold]]:
        for choice in end.choices:
            yield choice, self._choices.get(choice.index) or ChoiceFold()


class Fold(FrameFold):
    """The answer to `POST /v1/streams` with `stream: false`."""

    def result(self) -> StreamResult:
        """The whole stream, ready for a JSON encoder. Raises `ValueError` before the end frame."""
        start, end = self._parts()
        return {
            "stream": start.stream,
            "model": start.model,
            "created": start.created,
            "seed": start.seed,
            "deterministic": start.deterministic,
            "choices": [_choice(choice, folded) for choice, folded in self._ended_choices(end)],
            "usage": msgspec.to_builtins(end.usage),
            "timings": msgspec.to_builtins(end.timings),
            "text_sha256": end.text_sha256,
            "cursor": end.cursor,
        }


def service_error(detail: ErrorDetail) -> ServiceError:
    """The error that `detail` was made from, so that a failure before the first byte gets its right status."""
    error = error_class(detail.code)(detail.message)
    error.retry_after_s = RETRY_AFTER_S if error.retryable else None
    return error


def _choice(choice: ChoiceEnd, folded: ChoiceFold) -> ChoiceResult:
    fields: ChoiceResult = {
        "index": choice.index,
        "text": folded.text,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
    }
    if folded.token_ids is not None:
        fields["token_ids"] = folded.token_ids
    if folded.logprobs is not None:
        fields["logprobs"] = msgspec.to_builtins(folded.logprobs)
    if choice.message is not None:
        fields["message"] = msgspec.to_builtins(choice.message)
    return fields
