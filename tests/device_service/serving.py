"""The whole device service on a fake model, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from device_service.model.interface import Model, ReportProgress
from device_service.server import serve
from device_service.settings import Settings
from tessera.device.v1 import device_pb2 as pb
from tessera.device.v1 import device_pb2_grpc
from tests.fakes.model import FakeModel

Call = grpc.aio.StreamStreamCall[pb.DecodeRequest, pb.DecodeResponse]


@dataclass
class Served:
    """A running service."""

    address: str
    channel: grpc.aio.Channel
    stub: device_pb2_grpc.DeviceServiceAsyncStub
    stop: asyncio.Event
    task: asyncio.Task[None]


@asynccontextmanager
async def serving(
    directory: Path,
    model: FakeModel,
    load: Callable[[ReportProgress], Model] | None = None,
    **settings: object,
) -> AsyncIterator[Served]:
    """Serves `model`; stops at the end."""
    (directory / "config.json").write_text("{}")
    stop = asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    values = {"listen": "127.0.0.1:0", "metrics_listen": None, "drain_seconds": 5} | settings
    task = asyncio.create_task(
        serve(
            Settings(model=directory, **values),
            load or (lambda report: model),
            stop,
            address.set_result,
        )
    )
    await asyncio.wait((task, address), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    options = [("grpc.max_receive_message_length", 64 * 2**20)]
    try:
        async with grpc.aio.insecure_channel(await address, options=options) as channel:
            yield Served(
                await address, channel, device_pb2_grpc.DeviceServiceStub(channel), stop, task
            )
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


def open_command(number: int, ids: list[int], **fields: object) -> pb.Command:
    return pb.Command(sequence=number, open=pb.Open(token_ids=ids, **fields))


def advance_command(number: int, position: int, *ids: int) -> pb.Command:
    return pb.Command(sequence=number, advance=pb.Advance(position=position, token_ids=ids))


def close_command(number: int) -> pb.Command:
    return pb.Command(sequence=number, close=pb.Close())


async def send(call: Call, *commands: pb.Command) -> None:
    await call.write(pb.DecodeRequest(commands=commands))


def best_of(response: pb.DecodeResponse) -> dict[tuple[int, int], int]:
    """The best candidate by sequence and position."""
    readouts = response.readouts
    counts = np.frombuffer(readouts.candidate_counts, "<u4")
    firsts = np.cumsum([0, *counts])[:-1]
    ids = np.frombuffer(readouts.candidate_ids, "<u4")
    sequences = np.frombuffer(readouts.sequences, "<u4").tolist()
    positions = np.frombuffer(readouts.positions, "<u4").tolist()
    return dict(zip(zip(sequences, positions, strict=True), ids[firsts].tolist(), strict=True))


async def read_best(call: Call, num_readouts: int) -> dict[tuple[int, int], int]:
    """Reads until so many readouts have come."""
    best: dict[tuple[int, int], int] = {}
    while len(best) < num_readouts:
        response = await call.read()
        assert response is not grpc.aio.EOF, await call.details()
        assert not response.failed, response.failed
        best |= best_of(response)
    return best
