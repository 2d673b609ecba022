"""Ray Serve the way its documentation teaches streaming: a FastAPI ingress that returns a `StreamingResponse` over a
streaming handle call, and a deployment that yields. The same program runs in both modes of Serve.

The only departures from the tutorials are `max_ongoing_requests`, because with its default of 5 no more than five streams
would run, and the CPUs that the two replicas ask for, so that they fit on a small machine.
"""

from collections.abc import AsyncIterator
from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.responses import StreamingResponse

from benchmarks.baselines.events import MEDIA_TYPE, text_events
from benchmarks.baselines.pace import MAX_TOKENS, paced_tokens

MAX_ONGOING_REQUESTS = 1_000

app = FastAPI()


class Arguments(BaseModel):
    """`args` of the application: the pace of its tokens, in seconds."""

    model_config = ConfigDict(extra="forbid")

    first_token_s: float = 0.02
    step_s: float = 0.02


class GenerateBody(BaseModel):
    prompt: str
    max_tokens: int = Field(ge=1, le=MAX_TOKENS)


class Generator:
    """Yields tokens one by one."""

    def __init__(self, first_token_s: float, step_s: float) -> None:
        self._first_token_s = first_token_s
        self._step_s = step_s

    async def generate(self, prompt: str, tokens: int) -> AsyncIterator[str]:
        async for piece in paced_tokens(tokens, self._first_token_s, self._step_s):
            yield piece


@serve.ingress(app)
class Ingress:
    """Streams what the generator yields, one event for each token."""

    def __init__(self, generator: DeploymentHandle[Any]) -> None:
        self._generator = generator.options(stream=True)

    @app.post("/generate")
    async def generate(self, body: GenerateBody) -> StreamingResponse:
        pieces = self._generator.generate.remote(body.prompt, body.max_tokens)
        return StreamingResponse(text_events(cast(AsyncIterator[str], pieces)), media_type=MEDIA_TYPE)

    @app.get("/health")
    async def health(self) -> str:
        return "ok"


def build_app(args: Arguments) -> Application:
    """The application of `import_path: benchmarks.baselines.serve_tutorial:build_app`."""
    deployment = serve.deployment(
        max_ongoing_requests=MAX_ONGOING_REQUESTS, ray_actor_options={"num_cpus": 0.1}
    )
    generator: Application = deployment(Generator).bind(args.first_token_s, args.step_s)
    ingress: Application = deployment(Ingress).bind(generator)
    return ingress
