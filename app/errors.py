"""Every way in which the service refuses or fails, one class for each thing that a caller can do about it.

    ServiceError
    ├── InvalidRequest            400  mend the request
    │   ├── PromptTooLong         400  shorten the prompt
    │   └── InvalidCursor         400  resume from a cursor that the stream has
    ├── AuthenticationFailed      401  send a valid key
    ├── NotAllowed                403  ask for permission
    ├── NotFound                  404  mend the address
    │   ├── ModelNotFound         404  use a name that GET /v1/models lists
    │   └── StreamNotFound        404  use the id of a stream of this key
    ├── MethodNotAllowed          405  use a method that the route has
    ├── IdempotencyConflict       409  use a new key for a new body
    ├── StreamEnded               409  only a stream that runs can be changed
    ├── StreamExpired             410  start again: the stream is past its retention
    ├── BodyTooLarge              413  send less
    ├── UnsupportedMediaType      415  send application/json
    │   └── UnsupportedEncoding   415  send the body in an encoding that the server knows
    ├── TooManyStreams            429  wait until a stream of this key has ended
    ├── TooManyReaders            429  wait until a reader of this stream has left
    ├── RequestTimeout            408  allow more time, or ask for less
    ├── InternalError             500  report it
    ├── GenerationFailed          500  this request broke its generation; others are well
    ├── Overloaded                503  wait `retry_after_s` and try again
    ├── GeneratorUnavailable      503  try again: the replica is gone
    ├── StoreUnavailable          503  try again: the stream store does not answer
    └── Draining                  503  reconnect and resume

The class carries what each protocol says of it, so that no edge decides on its own; its docstring is what the OpenAPI document
says of it. Messages are written for clients: they hold no text of internal exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypedDict


class ErrorFields(TypedDict):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    """Every error of every route. `param` names the field or header at fault."""

    error: ErrorFields


class ServiceError(Exception):
    """An error that a client may see. `message` is a sentence; `param` names the field or header at fault."""

    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    ws_close_code: ClassVar[int] = 1011
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> ErrorBody:
        """The body of every HTTP error, in the shape that the OpenAI SDKs read."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(ServiceError):
    """A field or a header is wrong."""

    code = "invalid_request"
    type = "invalid_request_error"
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    ws_close_code = 1008


class PromptTooLong(InvalidRequest):
    """The prompt is too long."""

    code = "context_length_exceeded"


class InvalidCursor(InvalidRequest):
    """The stream has no such cursor."""

    code = "invalid_cursor"
    grpc_status = "OUT_OF_RANGE"


class AuthenticationFailed(ServiceError):
    """There is no valid API key."""

    code = "invalid_api_key"
    type = "authentication_error"
    http_status = 401
    grpc_status = "UNAUTHENTICATED"
    ws_close_code = 1008


class NotAllowed(ServiceError):
    """The caller may not do this."""

    code = "permission_denied"
    type = "permission_error"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"
    ws_close_code = 1008


class NotFound(ServiceError):
    """There is nothing at this address."""

    code = "not_found"
    type = "invalid_request_error"
    http_status = 404
    grpc_status = "NOT_FOUND"
    ws_close_code = 1008


class ModelNotFound(NotFound):
    """The model is not served here."""

    code = "model_not_found"


class StreamNotFound(NotFound):
    """There is no such stream, or it is another caller's."""

    code = "stream_not_found"


class MethodNotAllowed(ServiceError):
    """The route has no such method."""

    code = "method_not_allowed"
    type = "invalid_request_error"
    http_status = 405
    grpc_status = "UNIMPLEMENTED"
    ws_close_code = 1008


class IdempotencyConflict(ServiceError):
    """The Idempotency-Key was used for another body."""

    code = "idempotency_conflict"
    type = "invalid_request_error"
    http_status = 409
    grpc_status = "ALREADY_EXISTS"
    ws_close_code = 1008


class StreamEnded(ServiceError):
    """The stream has ended."""

    code = "stream_ended"
    type = "invalid_request_error"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"
    ws_close_code = 1008


class StreamExpired(ServiceError):
    """The stream is past its retention."""

    code = "stream_expired"
    type = "invalid_request_error"
    http_status = 410
    grpc_status = "NOT_FOUND"
    ws_close_code = 1008


class BodyTooLarge(ServiceError):
    """The body is too large."""

    code = "body_too_large"
    type = "invalid_request_error"
    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"
    ws_close_code = 1009


class UnsupportedMediaType(ServiceError):
    """The body is not JSON by its content type."""

    code = "unsupported_media_type"
    type = "invalid_request_error"
    http_status = 415
    grpc_status = "INVALID_ARGUMENT"
    ws_close_code = 1008


class UnsupportedEncoding(UnsupportedMediaType):
    """The body is packed in a way that is not known here."""

    code = "unsupported_content_encoding"


class TooManyStreams(ServiceError):
    """The key has as many streams as the limit allows."""

    code = "too_many_streams"
    type = "rate_limit_error"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    ws_close_code = 1013
    retryable = True


class TooManyReaders(TooManyStreams):
    """The stream has as many readers as the limit allows."""

    code = "too_many_readers"


class RequestTimeout(ServiceError):
    """The body or the answer took too long."""

    code = "timeout"
    type = "timeout_error"
    http_status = 408
    grpc_status = "DEADLINE_EXCEEDED"
    ws_close_code = 1011


class InternalError(ServiceError):
    """The server failed."""


class GenerationFailed(ServiceError):
    """The generation of this request failed."""

    code = "generation_failed"


class Overloaded(ServiceError):
    """The server is overloaded."""

    code = "overloaded"
    http_status = 503
    grpc_status = "RESOURCE_EXHAUSTED"
    ws_close_code = 1013
    retryable = True


class GeneratorUnavailable(ServiceError):
    """No generator is available."""

    code = "generator_unavailable"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    ws_close_code = 1011
    retryable = True
    lost_replica: str | None = None
    """For the producer: a replica that is lost, and that had the job or may have had it."""


class StoreUnavailable(GeneratorUnavailable):
    """The stream store does not answer."""

    code = "store_unavailable"


class Draining(ServiceError):
    """The server is shutting down."""

    code = "draining"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    ws_close_code = 1012
    retryable = True


def draining() -> Draining:
    """What a process that is about to stop says."""
    return Draining(
        "This server is shutting down. Try again or resume: another one answers.", retry_after_s=1
    )


def error_class(code: str) -> type[ServiceError]:
    """The class that has this code; `InternalError` for a code that this version does not know."""
    return _CLASS_BY_CODE.get(code, InternalError)


def _tree(base: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for subclass in base.__subclasses__():
        yield subclass
        yield from _tree(subclass)


_CLASS_BY_CODE = {found.code: found for found in _tree(ServiceError)}
