"""A device service without a model: deterministic logits, and knobs for what can go wrong.

Runs inside of a test (`FakeDevice.start`), or as a program that a test may kill
(`python -m tests.fakes.device --listen HOST:PORT --tokenizer DIR`).
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway.tokenizer import Tokenizer
from tessera.device.v1 import device_pb2 as pb
from tessera.device.v1 import device_pb2_grpc

Context = grpc.aio.ServicerContext
F32 = npt.NDArray[np.float32]
Logits = Callable[[Sequence[int]], F32]
"""The row of logits [V] that follows ids."""


def wandering(vocab_size: int, scale: float = 2.0) -> Logits:
    """Logits that depend on the last ids and their number: an answer that never settles."""

    def logits(ids: Sequence[int]) -> F32:
        rng = np.random.default_rng([len(ids), *ids[-3:]])
        return (rng.standard_normal(vocab_size) * scale).astype(np.float32)

    return logits


def scripted(vocab_size: int, answer: Sequence[int]) -> Logits:
    """Logits whose best id spells `answer` after any prompt, and then its last id for ever."""
    answer = tuple(answer)
    quiet = wandering(vocab_size, scale=0.5)

    def num_done(ids: tuple[int, ...]) -> int:
        return next(n for n in range(len(answer), -1, -1) if ids[len(ids) - n :] == answer[:n])

    def logits(ids: Sequence[int]) -> F32:
        row = quiet(ids)
        told = tuple(ids)
        while told[-2:] == answer[-1:] * 2:
            told = told[:-1]
        row[answer[min(num_done(told), len(answer) - 1)]] = 20.0
        return row

    return logits


@dataclass
class FakeSequence:
    """An open sequence: its ids, and what it was opened with."""

    ids: list[int]
    options: pb.ReadoutOptions
    num_answered: int = 1


@dataclass
class FakeDevice(device_pb2_grpc.DeviceServiceServicer):
    """Serves `tessera.device.v1` over `logits`; change the fields at any time."""

    address: str
    logits: Logits
    vocab_size: int
    tokenizer_digest: str
    checkpoint_digest: str = "c0ffee" * 8
    context_length: int = 2048
    eos_token_ids: tuple[int, ...] = (1,)
    delay_seconds: float = 0.0
    """Of every answer."""
    refusal: pb.SequenceFailed | None = None
    """Answers every `open`."""
    serving: bool = True
    """What its health says."""
    commands: list[pb.Command] = field(default_factory=list)
    """All it was told."""
    num_requests: int = 0
    """Messages that told it so."""
    open_sequences: dict[tuple[int, int], FakeSequence] = field(default_factory=dict)
    """By stream and number."""

    def __post_init__(self) -> None:
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._num_streams = 0

    @classmethod
    def of(cls, tokenizer: Tokenizer, address: str, **fields: Any) -> FakeDevice:
        """A device that agrees with the tokenizer."""
        vocab_size = tokenizer.vocab_size
        defaults = {
            "logits": wandering(vocab_size),
            "vocab_size": vocab_size,
            "tokenizer_digest": tokenizer.digest,
        }
        return cls(address=address, **(defaults | fields))

    async def start(self) -> None:
        """Serves at `address`."""
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.max_send_message_length", 64 * 2**20),
        ]
        self._server = grpc.aio.server(options=options)
        device_pb2_grpc.add_DeviceServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        status = health_pb2.HealthCheckResponse
        await self._health.set("", status.SERVING if self.serving else status.NOT_SERVING)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """Ends at once, with everything that runs."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def wait_for_termination(self) -> None:
        """Returns when it was stopped."""
        assert self._server is not None
        await self._server.wait_for_termination()

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(
            architecture="fake",
            name="fake-model",
            vocab_size=self.vocab_size,
            context_length=self.context_length,
            num_slots=64,
            max_rows=64,
            max_top_candidates=64,
            bos_token_id=2,
            eos_token_ids=self.eos_token_ids,
            checkpoint_digest=self.checkpoint_digest,
            tokenizer_digest=self.tokenizer_digest,
            backend="fake",
            precision="float32",
        )

    async def WatchLoad(
        self, request: pb.WatchLoadRequest, context: Context
    ) -> AsyncIterator[pb.WatchLoadResponse]:
        yield pb.WatchLoadResponse(num_slots=64, free_slots=64, accepting=True)

    # A coroutine that writes: gRPC closes no generator of a call that was cancelled.
    async def Decode(
        self, request_iterator: AsyncIterator[pb.DecodeRequest], context: Context
    ) -> None:
        """A step takes all commands that came during the last one, and `delay_seconds`."""
        self._num_streams += 1
        stream = self._num_streams
        inbox: asyncio.Queue[pb.Command | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(request_iterator, inbox))
        try:
            while True:
                commands = [await inbox.get()]
                await asyncio.sleep(self.delay_seconds)
                while not inbox.empty():
                    commands.append(inbox.get_nowait())
                if None in commands:
                    return
                await context.write(self._answer(stream, commands))
        finally:
            reader.cancel()
            for key in [key for key in self.open_sequences if key[0] == stream]:
                del self.open_sequences[key]

    async def _read(
        self,
        request_iterator: AsyncIterator[pb.DecodeRequest],
        inbox: asyncio.Queue[pb.Command | None],
    ) -> None:
        try:
            async for request in request_iterator:
                self.num_requests += 1
                for command in request.commands:
                    inbox.put_nowait(command)
        finally:
            inbox.put_nowait(None)

    def _answer(self, stream: int, commands: Sequence[pb.Command]) -> pb.DecodeResponse:
        response = pb.DecodeResponse()
        rows: list[tuple[int, int, F32, pb.ReadoutOptions]] = []
        for command in commands:
            self.commands.append(command)
            number = command.sequence
            key = (stream, number)
            sequence = self.open_sequences.get(key)
            match command.WhichOneof("action"):
                case "open":
                    assert sequence is None, "the number is in use"
                    if self.refusal is not None:
                        response.failed.add().CopyFrom(self.refusal)
                        response.failed[-1].sequence = number
                        response.failed[-1].closed = True
                        continue
                    sequence = FakeSequence(list(command.open.token_ids), command.open.readout)
                    self.open_sequences[key] = sequence
                    rows.append((number, *self._row(sequence), sequence.options))
                case "advance":
                    assert sequence is not None, f"advance of unknown {number}"
                    assert command.advance.position <= len(sequence.ids)
                    del sequence.ids[command.advance.position :]
                    for token_id in command.advance.token_ids:
                        sequence.ids.append(token_id)
                        rows.append((number, *self._row(sequence), sequence.options))
                case "inspect":
                    assert sequence is not None, f"inspect of unknown {number}"
                    position, row = self._row(sequence)
                    response.full_rows.add(sequence=number, position=position, logits=row.tobytes())
                case "close":
                    assert sequence is not None, f"close of unknown {number}"
                    del self.open_sequences[key]
                    response.closed.add(sequence=number)
                case _:
                    raise AssertionError("a command without an action")
        if rows:
            response.readouts.CopyFrom(_columns(rows))
        return response

    def _row(self, sequence: FakeSequence) -> tuple[int, F32]:
        return len(sequence.ids) - 1, self.logits(sequence.ids)


def _columns(rows: list[tuple[int, int, F32, pb.ReadoutOptions]]) -> pb.Readouts:
    ids: list[int] = []
    logits: list[float] = []
    counts: list[int] = []
    logsumexps: list[float] = []
    scaled: list[float] = []
    for _, _, row, options in rows:
        best = np.lexsort((np.arange(len(row)), -row))[: options.top_candidates or 64]
        ids += best.tolist()
        logits += row[best].tolist()
        counts.append(len(best))
        logsumexps.append(_logsumexp(row))
        scaled.append(_logsumexp(row / (options.temperature or 1.0)))
    ones = np.ones(len(rows), "<u4").tobytes()
    return pb.Readouts(
        sequences=np.array([number for number, *_ in rows], "<u4").tobytes(),
        positions=np.array([position for _, position, *_ in rows], "<u4").tobytes(),
        candidate_counts=np.array(counts, "<u4").tobytes(),
        candidate_ids=np.array(ids, "<u4").tobytes(),
        candidate_logits=np.array(logits, "<f4").tobytes(),
        logsumexps=np.array(logsumexps, "<f4").tobytes(),
        scaled_logsumexps=np.array(scaled, "<f4").tobytes(),
        queued_us=ones,
        prefill_us=ones,
        compute_us=ones,
    )


def _logsumexp(row: F32) -> float:
    best = float(row.max())
    return best + math.log(float(np.exp(row.astype(np.float64) - best).sum()))


async def _serve(address: str, tokenizer: Path, delay_seconds: float) -> None:
    device = FakeDevice.of(
        Tokenizer.from_directory(tokenizer), address, delay_seconds=delay_seconds
    )
    await device.start()
    await device.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--tokenizer", required=True, type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.listen, arguments.tokenizer, arguments.delay))
