"""The calls of a port as messages: a request for each method, made from the method's signature.

A new method of the port needs no edit here, in the client or in the deployment. On the wire a request is an array: the method's
name, then its arguments in order. What the annotations name must be what msgspec can encode; a `Sequence` is a list or a tuple.
"""

from __future__ import annotations

import inspect
from functools import reduce
from operator import or_
from types import FunctionType, GenericAlias, new_class
from typing import Any, get_type_hints

import msgspec

from deployments.messages.call import Request, answer


class PortRequests:
    """The requests of `port`, a protocol whose public methods are all asynchronous. `classes` has them by the method's name."""

    def __init__(self, port: type) -> None:
        methods = inspect.getmembers(port, inspect.isfunction)
        self.classes: dict[str, Any] = {
            name: _request_class(method) for name, method in methods if not name.startswith("_")
        }
        self._decode = msgspec.msgpack.Decoder(reduce(or_, self.classes.values())).decode

    async def answer(self, data: bytes, implementation: object) -> bytes:
        """Calls the method of `implementation` that the encoded request names. Returns the encoded reply."""
        request: Request[Any] = self._decode(data)
        method = getattr(implementation, type(request).__name__)
        return await answer(method(**msgspec.structs.asdict(request)))


def _request_class(method: FunctionType) -> type:
    types = get_type_hints(method)
    result = types.pop("return")
    parameters = inspect.signature(method).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return new_class(
        method.__name__,
        (GenericAlias(Request, result),),
        {"frozen": True, "array_like": True, "gc": False, "tag": method.__name__},
        lambda namespace: namespace.update(__annotations__=types, **defaults),
    )
