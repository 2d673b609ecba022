"""An application of two empty deployments: what Serve itself needs to start. See `start_time.py`."""

from __future__ import annotations

from typing import Any

from ray import serve
from starlette.requests import Request


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Behind:
    async def answer(self) -> str:
        return "ok"


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Front:
    def __init__(self, behind: Any) -> None:
        self._behind = behind

    async def __call__(self, request: Request) -> str:
        answer: str = await self._behind.answer.remote()
        return answer


application = Front.bind(Behind.bind())
