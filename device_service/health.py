"""grpc.health.v1, typed: what the device service tells of itself.

Knows the health protocol; knows nothing of what is healthy. grpcio-health-checking's types lack its
asyncio half: it is untyped here, and nowhere else.
"""

from __future__ import annotations

from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE_NAME = health.SERVICE_NAME
_Status = health_pb2.HealthCheckResponse


class Health:
    """The health of one service, and of the server as a whole. It begins NOT_SERVING.

    Args:
        service: its full name.
        server: where the health service is registered.
    """

    def __init__(self, service: str, server: grpc.aio.Server) -> None:
        self._names = ("", service)
        self._servicer: Any = cast(Any, health).aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set(self, *, serving: bool) -> None:
        """Tells watchers, and those who ask."""
        for name in self._names:
            await self._servicer.set(name, _Status.SERVING if serving else _Status.NOT_SERVING)

    async def shut_down(self) -> None:
        """NOT_SERVING from now on, whatever is set."""
        await self._servicer.enter_graceful_shutdown()
