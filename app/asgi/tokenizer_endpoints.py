"""`POST /tokenize` and `POST /detokenize`: what a prompt is to a model. They start nothing."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from app.asgi.json_response import JSONResponse
from app.asgi.openapi import Answer, Routes
from app.asgi.parameters import ENCODING
from app.asgi.responder import Responder
from app.schema.tokenizing import DetokenizeBody, Detokenized, TokenizeBody, Tokenized
from app.service import GenerationService


class TokenizerEndpoints:
    """Both in vLLM's shapes."""

    def __init__(self, service: GenerationService, responder: Responder) -> None:
        self._service = service
        self._responder = responder

    def add_to(self, routes: Routes) -> None:
        tokenized: Tokenized = {"count": 2, "max_model_len": 2048, "tokens": [1, 42], "token_strs": None}
        detokenized: Detokenized = {"prompt": "<|bos|>I"}
        routes.add(
            "POST",
            "/tokenize",
            self.tokenize,
            tag="Models",
            body=TokenizeBody,
            answers={200: Answer(model=Tokenized, example=tokenized)},
            errors=ENCODING,
        )
        routes.add(
            "POST",
            "/detokenize",
            self.detokenize,
            tag="Models",
            body=DetokenizeBody,
            answers={200: Answer(model=Detokenized, example=detokenized)},
            errors=ENCODING,
        )

    async def tokenize(self, request: Request) -> Response:
        """Shows the tokens of a prompt or a chat.

        They are those of the same prompt in `/v1/completions`, or of the same messages in `/v1/chat/completions`.
        """
        async with self._responder.body(request, TokenizeBody) as body:
            asked = body.to_request(self._service.settings.default_model)
            tokens = await self._service.encode(asked)
        tokenized: Tokenized = {
            "count": len(tokens),
            "max_model_len": self._service.card(asked.model).max_model_len_tokens,
            "tokens": tokens,
            "token_strs": await self._service.token_names(asked.model, tokens)
            if body.return_token_strs
            else None,
        }
        return JSONResponse(tokenized)

    async def detokenize(self, request: Request) -> Response:
        """Shows the text of tokens.

        Control tokens are written by their names.
        """
        async with self._responder.body(request, DetokenizeBody) as body:
            model = body.model_name(self._service.settings.default_model)
            text = await self._service.decode(model, body.tokens)
        return JSONResponse(Detokenized(prompt=text))
