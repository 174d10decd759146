"""Both real programs for a test: started on free ports, stopped and checked at the end."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from deploy.local import Services, running_services
from tessera.gateway.v1 import gateway_pb2_grpc

__all__ = ["DEMO_MODEL", "Services", "gateway_stub", "metric", "running_services"]

DEMO_MODEL = Path(__file__).resolve().parent.parent / "deploy" / "demo-model"


@contextmanager
def gateway_stub(services: Services) -> Iterator[gateway_pb2_grpc.GatewayServiceStub]:
    """A synchronous stub of the gateway."""
    with grpc.insecure_channel(services.gateway_address) as channel:
        yield gateway_pb2_grpc.GatewayServiceStub(channel)


def metric(address: str, name: str) -> float:
    """The sum over all labels of a metric that a program exports; fails when it exports none."""
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    assert values, f"{name} is not exported at {address}"
    return sum(map(float, values))
