"""The OpenAI dialect: `POST /v1/chat/completions` and `POST /v1/completions`, streamed or not."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from app.asgi import examples
from app.asgi.openapi import Answer, Routes
from app.asgi.parameters import STARTING, IdempotencyKey
from app.asgi.responder import Responder
from app.dialects.openai import ChatFold, ChatStreamEncoder, CompletionFold, CompletionStreamEncoder
from app.schema.openai import ChatCompletionBody, CompletionBody
from app.schema.openai_answers import ChatCompletion, Completion


class OpenAIEndpoints:
    """Both routes start the same streams as the native one; only the words on the wire differ."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    def add_to(self, routes: Routes) -> None:
        routes.add(
            "POST",
            "/v1/chat/completions",
            self.create_chat_completion,
            tag="OpenAI dialect",
            body=ChatCompletionBody,
            answers={
                200: Answer(
                    model=ChatCompletion,
                    example=examples.folded(ChatFold()),
                    events=ChatStreamEncoder().encode(examples.FRAMES).decode(),
                    headers=["x-stream-id"],
                )
            },
            errors=STARTING,
        )
        routes.add(
            "POST",
            "/v1/completions",
            self.create_completion,
            tag="OpenAI dialect",
            body=CompletionBody,
            answers={
                200: Answer(
                    model=Completion,
                    example=examples.folded(CompletionFold()),
                    events=CompletionStreamEncoder().encode(examples.FRAMES).decode(),
                    headers=["x-stream-id"],
                )
            },
            errors=STARTING,
        )

    async def create_chat_completion(
        self, request: Request, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Answers a chat (OpenAI dialect).

        Unknown fields are ignored. `stream: true` gives chunks as server-sent events, then `[DONE]`.
        """
        async with self._responder.body(request, ChatCompletionBody) as body:
            stream = await self._responder.start(request, body, idempotency_key)
        source = await self._responder.read([stream])
        if body.stream:
            encoder = ChatStreamEncoder(
                n=stream.request.n,
                options=body.stream_options,
                reasoning_field=self._responder.reasoning_field,
            )
            return self._responder.streamed(source, encoder)
        return await self._responder.folded(source, ChatFold(self._responder.reasoning_field), request)

    async def create_completion(self, request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Continues a text (OpenAI dialect).

        Unknown fields are ignored. `stream: true` gives chunks as server-sent events, then `[DONE]`.
        """
        async with self._responder.body(request, CompletionBody) as body:
            streams, openings = await self._responder.start_all(request, body, idempotency_key)
        source = await self._responder.read(streams, openings)
        if body.stream:
            encoder = CompletionStreamEncoder(
                n=len(streams) * streams[0].request.n,
                options=body.stream_options,
                piece_lengths=source.piece_lengths,
            )
            return self._responder.streamed(source, encoder)
        return await self._responder.folded(source, CompletionFold(source.piece_lengths), request)
