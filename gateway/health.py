"""grpc.health.v1, typed: the gateway's own health, and the question for a device's.

Knows the health protocol; knows nothing of what is healthy. grpcio-health-checking's types lack its
asyncio half and its stub's methods: they are untyped here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE_NAME = health.SERVICE_NAME
_Status = health_pb2.HealthCheckResponse


class Health:
    """What a server tells of itself. It begins NOT_SERVING.

    Args:
        services: names of its services; the server as a whole is told beside them.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._names = ("", *services)
        self._servicer: Any = cast(Any, health).aio.HealthServicer()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers the health service."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set(self, *, serving: bool) -> None:
        """Tells watchers, and those who ask."""
        for name in self._names:
            await self._servicer.set(name, _Status.SERVING if serving else _Status.NOT_SERVING)

    async def shut_down(self) -> None:
        """NOT_SERVING from now on, whatever is set."""
        await self._servicer.enter_graceful_shutdown()


async def is_serving(channel: grpc.aio.Channel, timeout_seconds: float) -> bool:
    """Asks the server at the other end.

    Raises:
        grpc.aio.AioRpcError: it can't be asked.
    """
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
    return answer.status == _Status.SERVING
