"""What FastAPI can't see of a route, so that it can describe it: the bodies, the answers and the errors.

FastAPI takes paths, parameters and texts from the signatures and docstrings of the endpoints. They read raw bytes, so that every
mistake is answered in this service's own shape, and answer with bytes that are encoded already; hence `Routes.add` names the
types. The schemas come from these types: those that check a body, and those that are written.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from app.asgi.error_response import error_response
from app.asgi.examples import ERRORS
from app.asgi.methods import with_head
from app.errors import ErrorBody, InternalError, ServiceError
from app.schema.frames import Frame

_SCHEMA = "#/components/schemas/"
_HEADERS = {
    "location": {"description": "The stream.", "schema": {"type": "string"}},
    "retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "www-authenticate": {"description": "How to send the key.", "schema": {"type": "string"}},
    "x-should-retry": {
        "description": "`false`: another attempt does not help.",
        "schema": {"type": "string"},
    },
    "x-stream-id": {"description": "The stream's id.", "schema": {"type": "string"}},
}


class Answer(NamedTuple):
    """A good answer of a route: an `example` in JSON, which is of the type `model`; an event stream like `events`; or either."""

    description: str = "The answer."
    model: Any = None
    example: object = None
    events: str | None = None
    headers: Sequence[str] = ()


class Routes(APIRouter):
    """The routes of an application. `complete` adds what they refer to to the document that FastAPI makes of them."""

    def __init__(self) -> None:
        super().__init__(default_response_class=Response, generate_unique_id_function=_operation_id)
        self._bodies: list[type[BaseModel]] = []
        self._types: dict[str, Any] = {"Frame": Frame}
        self._examples: dict[str, dict[str, object]] = {}

    def add(
        self,
        method: str,
        path: str,
        endpoint: Callable[..., Any],
        *,
        tag: str,
        body: type[BaseModel] | None = None,
        answers: dict[int, Answer],
        errors: Sequence[type[ServiceError]] = (),
    ) -> None:
        """Adds a route. The first line of the endpoint's docstring is its summary, the rest its description.

        `answers` are by status. Any error that is not among `errors` is described as one of the server.
        """
        summary, _, description = inspect.cleandoc(endpoint.__doc__ or "").partition("\n\n")
        responses: dict[int | str, dict[str, Any]] = {
            status: self._answer(answer) for status, answer in answers.items()
        }
        for status in sorted({error.http_status for error in errors}):
            classes = [error for error in errors if error.http_status == status]
            responses[status] = self._errors(" ".join(str(error.__doc__) for error in classes), classes)
        responses["default"] = self._errors("Any other error.", [InternalError])
        extra = None
        if body is not None:
            self._bodies.append(body)
            schema = {"$ref": _SCHEMA + body.__name__}
            extra = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
        for other in with_head(method)[1:]:
            self.add_api_route(path, endpoint, methods=[other], include_in_schema=False)
        self.add_api_route(
            path,
            endpoint,
            methods=[method],
            tags=[tag],
            summary=summary.rstrip("."),
            description=description,
            responses=responses,
            openapi_extra=extra,
        )

    def complete(self, document: dict[str, Any]) -> dict[str, Any]:
        """Adds the schemas and examples to `document`, and how to send a key where keys are needed."""
        _, bodies = models_json_schema(
            [(body, "validation") for body in self._bodies], ref_template=_SCHEMA + "{model}"
        )
        unions, types = msgspec.json.schema_components(self._types.values(), ref_template=_SCHEMA + "{name}")
        named = {
            name: schema for name, schema in zip(self._types, unions, strict=True) if "$ref" not in schema
        }
        components = document.setdefault("components", {})
        components["schemas"] = {**components.get("schemas", {}), **bodies["$defs"], **types, **named}
        components["examples"] = self._examples
        components["securitySchemes"] = {"ApiKey": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"ApiKey": []}]
        return document

    def _answer(self, answer: Answer) -> dict[str, Any]:
        content: dict[str, Any] = {}
        if answer.model is not None:
            content["application/json"] = self._json(answer.model, {answer.model.__name__: answer.example})
        if answer.events is not None:
            examples = {"example": {"value": answer.events}}
            content["text/event-stream"] = {"schema": {"type": "string"}, "examples": examples}
        return _response(answer.description, content, answer.headers)

    def _errors(self, description: str, classes: Sequence[type[ServiceError]]) -> dict[str, Any]:
        examples = [ERRORS.get(error) or error(str(error.__doc__)) for error in classes]
        bodies: dict[str, object] = {type(error).__name__: error.body() for error in examples}
        content = {"application/json": self._json(ErrorBody, bodies)}
        return _response(description, content, error_response(examples[0]).headers)

    def _json(self, model: Any, examples: dict[str, object]) -> dict[str, Any]:
        """Content of the type `model`. The examples are components, as FastAPI drops every null from one in a route."""
        self._types[model.__name__] = model
        self._examples |= {name: {"value": msgspec.to_builtins(value)} for name, value in examples.items()}
        references = {name: {"$ref": f"#/components/examples/{name}"} for name in examples}
        return {"schema": {"$ref": _SCHEMA + model.__name__}, "examples": references}


def _response(description: str, content: dict[str, Any], headers: Iterable[str]) -> dict[str, Any]:
    described = {name.title(): _HEADERS[name] for name in headers if name in _HEADERS}
    parts = {"description": description, "content": content, "headers": described}
    return {name: part for name, part in parts.items() if part}


def _operation_id(route: Any) -> str:
    """`createStream` for an endpoint named `create_stream`."""
    return re.sub("_([a-z])", lambda found: found[1].upper(), route.name)
