"""The standard service `grpc.health.v1.Health`, so that every probe that speaks it can ask whether a stream could start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as health

from app.proto import generation_pb2 as pb
from app.service import GenerationService
from deployments.ingress.grpc_servicer import CallContext

SERVICES = ("", pb.DESCRIPTOR.services_by_name["Generation"].full_name)
"""Names that may be asked for: that of the whole server, and that of the one service."""
LOOK_EVERY_S = 0.5


class HealthServicer:
    """The calls of the health service. The whole server and its service are well or not together."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        # A watch that never ended would hold up a replica that drains.
        self._watch_s = service.settings.limits.request_timeout_s

    async def check(
        self, request: health.HealthCheckRequest, context: CallContext
    ) -> health.HealthCheckResponse:
        """SERVING or NOT_SERVING; the status NOT_FOUND for a service that isn't here."""
        if request.service not in SERVICES:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("not_found: There is no such service here.")
            return health.HealthCheckResponse()
        return health.HealthCheckResponse(status=self._status())

    async def list(
        self, request: health.HealthListRequest, context: CallContext
    ) -> health.HealthListResponse:
        """All services with their status."""
        answer = health.HealthCheckResponse(status=self._status())
        return health.HealthListResponse(statuses=dict.fromkeys(SERVICES, answer))

    async def watch(
        self, request: health.HealthCheckRequest, context: CallContext
    ) -> AsyncGenerator[health.HealthCheckResponse, None]:
        """The status now, and again whenever it changes; for as long as any stream may last, so that a replica can drain."""
        known = request.service in SERVICES
        last = None
        until_s = asyncio.get_running_loop().time() + self._watch_s
        while asyncio.get_running_loop().time() < until_s:
            status = self._status() if known else health.HealthCheckResponse.SERVICE_UNKNOWN
            if status != last:
                last = status
                yield health.HealthCheckResponse(status=status)
            await asyncio.sleep(LOOK_EVERY_S)

    def _status(self) -> Any:
        if self._service.ready():
            return health.HealthCheckResponse.SERVING
        return health.HealthCheckResponse.NOT_SERVING
