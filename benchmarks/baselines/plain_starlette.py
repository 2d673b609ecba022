"""One uvicorn + Starlette process that yields ready strings: no graph, no text work. The floor for any Python ingress."""

from __future__ import annotations

import click
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from benchmarks.baselines.events import MEDIA_TYPE, text_events
from benchmarks.baselines.pace import paced_tokens


def build_app(first_token_s: float, step_s: float) -> Starlette:
    async def generate(request: Request) -> StreamingResponse:
        body = await request.json()
        return StreamingResponse(
            text_events(paced_tokens(int(body["max_tokens"]), first_token_s, step_s)), media_type=MEDIA_TYPE
        )

    async def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/generate", generate, methods=["POST"]), Route("/health", health)])


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--first-token-s", type=float, default=0.02, show_default=True)
@click.option("--step-s", type=float, default=0.02, show_default=True)
def main(port: int, first_token_s: float, step_s: float) -> None:
    """Serve on loopback until interrupted."""
    uvicorn.run(
        build_app(first_token_s, step_s), host="127.0.0.1", port=port, log_level="warning", access_log=False
    )


if __name__ == "__main__":
    main()
