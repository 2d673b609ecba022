"""The OpenAI dialect: `POST /v1/chat/completions` and `POST /v1/completions`, streamed or not."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.asgi import openapi
from app.asgi.responder import Responder
from app.dialects.openai import ChatFold, ChatStreamEncoder, CompletionFold, CompletionStreamEncoder
from app.schema.openai import ChatCompletionBody, CompletionBody


class OpenAIEndpoints:
    """Both routes start the same streams as the native one; only the words on the wire differ."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self.router = APIRouter(tags=["OpenAI dialect"])
        self.router.add_api_route(
            "/v1/chat/completions", self.chat, methods=["POST"], **openapi.CHAT_COMPLETION
        )
        self.router.add_api_route("/v1/completions", self.complete, methods=["POST"], **openapi.COMPLETION)

    async def chat(self, request: Request) -> Response:
        """Answers a chat."""
        body = await self._responder.read(request, ChatCompletionBody)
        stream = await self._responder.start(request, body)
        if body.stream:
            encoder = ChatStreamEncoder(n=stream.request.n, options=body.stream_options)
            return await self._responder.streamed(stream, encoder)
        return await self._responder.folded(stream, ChatFold(), request)

    async def complete(self, request: Request) -> Response:
        """Goes on with a text."""
        body = await self._responder.read(request, CompletionBody)
        stream = await self._responder.start(request, body)
        if body.stream:
            encoder = CompletionStreamEncoder(n=stream.request.n, options=body.stream_options)
            return await self._responder.streamed(stream, encoder)
        return await self._responder.folded(stream, CompletionFold(), request)
