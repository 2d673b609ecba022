"""The stream store as an ingress sees it: implements `app.streams.store.StreamStore` over a link to its deployment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from app.errors import StoreUnavailable
from app.streams.store import StreamStore
from deployments.ingress.call_failure import RETRY_AFTER_S, as_service_error
from deployments.links.link import Link
from deployments.messages.call import Request, decode_reply, encode
from deployments.messages.port_requests import PortRequests

CALL_TIMEOUT_S = 5.0


class PortClient:
    """The base of `class Client(PortClient, Port, port=Port)`, which has the methods of `Port`: each sends its request.

    A call that fails raises `StoreUnavailable`, and so does one without a reply after `CALL_TIMEOUT_S`. An argument `wait_s` is
    the time that the store may wait, and is added to that.
    """

    def __init_subclass__(cls, *, port: type) -> None:
        super().__init_subclass__()
        for name, request_class in PortRequests(port).classes.items():
            setattr(cls, name, _method(request_class))

    def __init__(self, link: Link) -> None:
        self.link = link

    @classmethod
    def over(cls, link: Link) -> Self:
        """A client over `link`. To mypy, which does not see the methods made above, the class itself is abstract."""
        return cls(link)


def _method(request_class: Callable[..., Request[Any]]) -> Callable[..., Any]:
    async def method(self: PortClient, *arguments: Any, **named: Any) -> Any:
        request = request_class(*arguments, **named)
        timeout_s: float = CALL_TIMEOUT_S + getattr(request, "wait_s", 0.0)
        try:
            reply = await self.link.call(encode(request), timeout_s)
        except Exception as error:
            raise StoreUnavailable(
                as_service_error(error, "stream store").message, retry_after_s=RETRY_AFTER_S
            ) from error
        return decode_reply(request, reply)

    return method


class StreamStoreClient(PortClient, StreamStore, port=StreamStore):
    """See the port."""
