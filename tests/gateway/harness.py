"""A gateway over a fake device, both inside of the test's event loop."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from deploy.local import free_address
from gateway.health import is_serving
from gateway.server import Stop, serve
from gateway.settings import Settings
from gateway.tokenizer import Tokenizer
from tessera.gateway.v1 import gateway_pb2 as pb
from tessera.gateway.v1 import gateway_pb2_grpc
from tests.fakes.device import FakeDevice
from tests.processes import DEMO_MODEL

PATIENCE_SECONDS = 60.0
"""For things that take a moment, on a machine that has none to spare."""

CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
]


@cache
def demo_tokenizer() -> Tokenizer:
    """The demo checkpoint's tokenizer."""
    return Tokenizer.from_directory(DEMO_MODEL)


@dataclass
class Running:
    """A gateway, its fake device and a stub."""

    device: FakeDevice
    settings: Settings
    stub: gateway_pb2_grpc.GatewayServiceAsyncStub
    channel: grpc.aio.Channel
    stop: Stop
    task: asyncio.Task[None]

    @property
    def address(self) -> str:
        return self.settings.listen

    async def answer(self, request: pb.GenerateRequest, **call: Any) -> Answered:
        """The whole answer."""
        answered = Answered()
        async for event in self.stub.Generate(request, **call):
            answered.take(event)
        return answered

    async def serving(self, wanted: bool = True) -> None:
        """Returns when the gateway's health is as wanted."""

        async def is_so() -> bool:
            return await is_serving(self.channel, PATIENCE_SECONDS) == wanted

        await eventually(is_so)

    async def metrics(self) -> str:
        """The text of /metrics."""

        def read() -> str:
            url = f"http://{self.settings.metrics_listen}/metrics"
            return urllib.request.urlopen(url, timeout=PATIENCE_SECONDS).read().decode()

        return await asyncio.to_thread(read)

    async def device_is_idle(self) -> None:
        """Returns when no sequence is open on the device."""

        async def idle() -> bool:
            return not self.device.open_sequences

        await eventually(idle)


@dataclass
class Answered:
    """The events of an answer."""

    started: pb.Started | None = None
    deltas: list[pb.Delta] = field(default_factory=list)
    finished: pb.Finished | None = None

    def take(self, event: pb.GenerateResponse) -> None:
        """Adds an event; they must come in the promised order."""
        assert self.finished is None
        match event.WhichOneof("event"):
            case "started":
                assert self.started is None
                self.started = event.started
            case "delta":
                assert self.started is not None
                self.deltas.append(event.delta)
            case "finished":
                assert self.started is not None
                self.finished = event.finished
            case other:
                raise AssertionError(f"an event without a kind: {other}")

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]

    @property
    def logprobs(self) -> list[pb.TokenLogprobs]:
        return [logprobs for delta in self.deltas for logprobs in delta.logprobs]


@asynccontextmanager
async def running_gateway(
    device: FakeDevice | None = None, *, start_device: bool = True, **settings: Any
) -> AsyncIterator[Running]:
    """A gateway over a fake device of the demo tokenizer; stopped at once at the end."""
    device = device or FakeDevice.of(demo_tokenizer(), free_address())
    if start_device:
        await device.start()
    values = {
        "device": device.address,
        "tokenizer": DEMO_MODEL,
        "listen": free_address(),
        "metrics_listen": free_address(),
    }
    all_settings = Settings(**(values | settings))
    stop = Stop()
    task = asyncio.create_task(serve(all_settings, demo_tokenizer(), stop))
    try:
        async with grpc.aio.insecure_channel(all_settings.listen, CHANNEL_OPTIONS) as channel:
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            running = Running(device, all_settings, stub, channel, stop, task)
            await asyncio.wait(
                (task, asyncio.ensure_future(channel.channel_ready())),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if start_device and not task.done():
                await running.serving()
            yield running
    finally:
        stop.wish()
        stop.wish()
        await asyncio.wait((task,))
        await device.stop()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns when the condition holds; fails when it does not for too long."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.01)


def details_of(error: grpc.RpcError, kind: type[Message]) -> list[Any]:
    """The details of a kind in a gRPC error."""
    status = rpc_status.from_call(error)
    found: list[Any] = []
    for detail in status.details if status is not None else ():
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


def fields_at_fault(error: grpc.RpcError) -> list[str]:
    """The fields that BadRequest names."""
    return [
        violation.field
        for bad_request in details_of(error, error_details_pb2.BadRequest)
        for violation in bad_request.field_violations
    ]
