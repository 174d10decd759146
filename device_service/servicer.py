"""gRPC ⇄ engine: streams, errors, cancellation. Knows nothing of models and of what a step is.

A stream has a reader, which turns requests into commands, and a writer, which turns events into
responses; whatever ends the writer drops the stream in the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc

from device_service.commands import read_request
from device_service.engine import Engine
from device_service.errors import Code
from device_service.load_board import LoadBoard
from device_service.messages import StreamEnd, StreamEvents
from device_service.model.interface import ModelInfo
from device_service.outbox import Outbox, weight_of
from device_service.responses import write_model, write_responses
from tessera.device.v1 import device_pb2 as pb
from tessera.device.v1 import device_pb2_grpc

DEFAULT_INTERVAL_MS = 100
MIN_INTERVAL_MS, MAX_INTERVAL_MS = 10, 60_000

_STATUSES: dict[Code, grpc.StatusCode] = {
    Code[status.name]: status for status in grpc.StatusCode if status.name in Code.__members__
}

DecodeContext = grpc.aio.ServicerContext[pb.DecodeRequest, pb.DecodeResponse]
LoadContext = grpc.aio.ServicerContext[pb.WatchLoadRequest, pb.WatchLoadResponse]


class DeviceServicer(device_pb2_grpc.DeviceServiceServicer):
    """The calls of `tessera.device.v1.DeviceService`.

    Until `serve` was called, every call is UNAVAILABLE. The streaming calls are coroutines that
    write, not generators: grpc.aio leaves a generator open when a call is cancelled between two of
    its responses, and the sequences would keep their slots.
    """

    def __init__(self, engine: Engine, board: LoadBoard, max_queued: int) -> None:
        self._engine = engine
        self._board = board
        self._max_queued = max_queued
        self._info: ModelInfo | None = None

    def serve(self, info: ModelInfo) -> None:
        """The model is ready."""
        self._info = info

    async def Decode(  # pyright: ignore[reportIncompatibleMethodOverride] # noqa: N802
        self, request_iterator: AsyncIterator[pb.DecodeRequest], context: DecodeContext
    ) -> None:
        """Runs sequences; see device.proto."""
        info = await self._ready(context)
        outbox = Outbox()
        stream = self._engine.open_stream(outbox.put)
        reader = asyncio.create_task(self._read(stream, request_iterator, outbox, info))
        writer = asyncio.create_task(_write(context, outbox))
        overflow = asyncio.create_task(outbox.overflow())
        try:
            done, _ = await asyncio.wait((writer, overflow), return_when=asyncio.FIRST_COMPLETED)
            end = done.pop().result()
        finally:
            self._engine.drop_stream(stream)
            for task in (reader, writer, overflow):
                task.cancel()
        if end.code != Code.OK:
            await context.abort(_STATUSES[end.code], end.message)

    async def GetModel(  # pyright: ignore[reportIncompatibleMethodOverride] # noqa: N802
        self,
        request: pb.GetModelRequest,  # noqa: ARG002 the contract's shape
        context: grpc.aio.ServicerContext[pb.GetModelRequest, pb.GetModelResponse],
    ) -> pb.GetModelResponse:
        """Tells the model and its limits."""
        return write_model(await self._ready(context), self._max_queued)

    async def WatchLoad(  # pyright: ignore[reportIncompatibleMethodOverride] # noqa: N802
        self, request: pb.WatchLoadRequest, context: LoadContext
    ) -> None:
        """Tells the load, now and whenever it changes."""
        await self._ready(context)
        interval_ms = request.min_interval_ms or DEFAULT_INTERVAL_MS
        if not MIN_INTERVAL_MS <= interval_ms <= MAX_INTERVAL_MS:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"min_interval_ms is {interval_ms:,}; it must be {MIN_INTERVAL_MS} to "
                f"{MAX_INTERVAL_MS:,}, or 0 for {DEFAULT_INTERVAL_MS}",
            )
        load = await self._board.after(None)
        while load is not None:
            await context.write(
                pb.WatchLoadResponse(
                    num_slots=load.num_slots,
                    free_slots=load.free_slots,
                    queued_sequences=load.waiting_sequences,
                    queued_rows=load.queued_rows,
                    step_time_us=load.step_time_us,
                    accepting=load.accepting,
                )
            )
            await asyncio.sleep(interval_ms / 1000)
            load = await self._board.after(load)

    async def _ready(self, context: grpc.aio.ServicerContext[Any, Any]) -> ModelInfo:
        if self._info is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the model is still loading")
        return self._info

    async def _read(
        self,
        stream: int,
        requests: AsyncIterator[pb.DecodeRequest],
        outbox: Outbox,
        info: ModelInfo,
    ) -> None:
        try:
            async for request in requests:
                commands = read_request(request, info)
                weight = sum(map(weight_of, commands))
                outbox.submitted(weight)
                self._engine.submit(stream, commands, partial(outbox.taken, weight))
                await outbox.room()
        except Exception as error:
            message = f"a message could not be read as a DecodeRequest: {error}"
            outbox.put(StreamEvents(end=StreamEnd(Code.INVALID_ARGUMENT, message)))
        else:
            self._engine.end_stream(stream)


async def _write(context: DecodeContext, outbox: Outbox) -> StreamEnd:
    while True:
        events = await outbox.take()
        for response in write_responses(events):
            await context.write(response)
        outbox.sent(events)
        if events.end is not None:
            return events.end
