"""An application of two empty deployments: what Serve itself needs to start. See `benchmarks.start_time`."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from starlette.requests import Request


class Inner:
    async def answer(self) -> str:
        return "ok"


class Front:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __call__(self, request: Request) -> str:
        answer: str = await self._inner.answer.remote()
        return answer


deployment = serve.deployment(ray_actor_options={"num_cpus": 0})
inner: Application = deployment(Inner).bind()
application: Application = deployment(Front).bind(inner)
