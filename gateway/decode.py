"""One `Decode` stream, shared by all sequences of a device.

Knows commands, events and asyncio; knows nothing of text, of sampling, or of how a device is found.

Many sequences share two messages a step: the answers of a step arrive in one, and the commands that
follow from them leave in one, because the writer wakes only after all of them were decided.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence as Ids
from types import TracebackType
from typing import Generic, TypeVar

import grpc

from gateway.errors import RequestError, device_refusal, unavailable
from gateway.readouts import F32, Readout, read_logits, read_readouts
from tessera.device.v1 import device_pb2 as pb

DecodeCall = grpc.aio.StreamStreamCall[pb.DecodeRequest, pb.DecodeResponse]

# A request may be 8 MiB: a batch is sent once it is this large, and no single command is larger
# (a prompt of 131,072 ids has half a MiB).
_BATCH_BYTES = 4 * 2**20
_MAX_SEQUENCE_NUMBER = 2**32 - 1

T = TypeVar("T")


class Sequence:
    """An open sequence: one command is out at a time, and one answer comes back.

    A context manager; leaving it closes the sequence on the device, at once and without waiting.
    """

    def __init__(self, stream: DecodeStream, number: int, position: int) -> None:
        self._stream = stream
        self._number = number
        self._position = position
        self._error: RequestError | None = None
        self._readout: _Answer[Readout] = _Answer()
        self._row: _Answer[F32] = _Answer()

    def __enter__(self) -> Sequence:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close(self._number)

    async def readout(self) -> Readout:
        """The answer to `open`, or to the last `advance`.

        Raises:
            RequestError: the device refused the command, or was lost.
        """
        return await self._readout.get()

    def advance(self, token_id: int) -> None:
        """Sends the id for the next position, without waiting for the answer."""
        self._position += 1
        self._readout = _Answer(self._error)
        advance = pb.Advance(position=self._position, token_ids=(token_id,))
        self._stream.send(pb.Command(sequence=self._number, advance=advance))

    async def inspect(self) -> F32:
        """All logits [vocab_size] behind the last readout.

        Raises:
            RequestError: the device refused the command, or was lost.
        """
        self._row = _Answer(self._error)
        self._stream.send(pb.Command(sequence=self._number, inspect=pb.Inspect()))
        return await self._row.get()

    def take_readout(self, readout: Readout) -> None:
        """The device answered; called by the stream."""
        if readout.position == self._position:
            self._readout.set(readout)
        else:
            self.fail(self._stream.out_of_step(readout.position, self._position))

    def take_row(self, position: int, row: F32) -> None:
        """The device sent a full row; called by the stream."""
        if position == self._position:
            self._row.set(row)
        else:
            self.fail(self._stream.out_of_step(position, self._position))

    def fail(self, error: RequestError) -> None:
        """Nothing more will come; called by the stream."""
        self._error = error
        self._readout.fail(error)
        self._row.fail(error)


class DecodeStream:
    """Carries the commands and answers of all sequences of one device.

    Attributes:
        address: the device's, for messages.
    """

    def __init__(self, address: str, call: DecodeCall, vocab_size: int) -> None:
        self.address = address
        self._call = call
        self._vocab_size = vocab_size
        self._numbers = itertools.count(1)
        self._sequences: dict[int, Sequence] = {}
        self._outbox: list[pb.Command] = []
        self._outbox_filled = asyncio.Event()
        self._lost = ""

    def open(self, token_ids: Ids[int], readout: pb.ReadoutOptions, priority: int) -> Sequence:
        """Starts a sequence; its first readout follows.

        Raises:
            RequestError: the stream has ended.
        """
        if self._lost:
            raise unavailable(self._lost)
        number = next(self._numbers)
        assert number <= _MAX_SEQUENCE_NUMBER, "four thousand million sequences on one stream"
        sequence = Sequence(self, number, len(token_ids) - 1)
        self._sequences[number] = sequence
        opening = pb.Open(token_ids=token_ids, readout=readout, priority=priority)
        self.send(pb.Command(sequence=number, open=opening))
        return sequence

    def close(self, number: int) -> None:
        """Forgets the sequence here and, unless it has gone already, on the device."""
        self.send(pb.Command(sequence=number, close=pb.Close()))
        self._sequences.pop(number, None)

    def send(self, command: pb.Command) -> None:
        """Puts the command into the next message, unless its sequence is gone."""
        if command.sequence in self._sequences:
            self._outbox.append(command)
            self._outbox_filled.set()

    async def run(self) -> str:
        """Carries messages until the stream ends; then fails all sequences.

        Returns:
            Why the stream ended, for a log and for the clients.
        """
        writer = asyncio.create_task(self._write())
        reason = "the gateway stopped"
        try:
            reason = await self._read()
        finally:
            self._call.cancel()
            writer.cancel()
            self.fail_all(
                f"device {self.address} was lost ({reason}); send the request again, with "
                "`resume` to keep the answer so far"
            )
            await asyncio.wait((writer,))
        return reason

    def fail_all(self, message: str) -> None:
        """Ends every sequence with UNAVAILABLE and this message, and refuses new ones."""
        self._lost = message
        sequences, self._sequences = self._sequences, {}
        for sequence in sequences.values():
            sequence.fail(unavailable(message))

    def out_of_step(self, got: int, expected: int) -> RequestError:
        """The error of an answer that nobody asked for."""
        return RequestError(
            grpc.StatusCode.INTERNAL,
            f"device {self.address} answered for position {got} instead of {expected}",
        )

    async def _read(self) -> str:
        try:
            async for response in self._call:
                self._deliver(response)
        except grpc.aio.AioRpcError as error:
            return error.details() or error.code().name
        except ValueError as error:
            return str(error)
        except asyncio.CancelledError:
            # grpc.aio raises this for a call that the device or the writer cancelled, too.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return "the stream was cancelled"
        return "it ended the stream"

    async def _write(self) -> None:
        try:
            while True:
                await self._outbox_filled.wait()
                self._outbox_filled.clear()
                outbox, self._outbox = self._outbox, []
                for batch in _batches(outbox):
                    await self._call.write(pb.DecodeRequest(commands=batch))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the call has ended: the reader knows why
        finally:
            self._call.cancel()

    def _deliver(self, response: pb.DecodeResponse) -> None:
        if response.HasField("readouts"):
            for number, readout in read_readouts(response.readouts, self._vocab_size):
                # A sequence that was just closed may still be answered.
                if sequence := self._sequences.get(number):
                    sequence.take_readout(readout)
        for row in response.full_rows:
            if sequence := self._sequences.get(row.sequence):
                logits = read_logits(row.logits)
                if len(logits) != self._vocab_size:
                    raise ValueError(
                        f"it sent a row of {len(logits)} logits; the vocabulary has "
                        f"{self._vocab_size}"
                    )
                sequence.take_row(row.position, logits)
        for failed in response.failed:
            self._fail(failed)
        for closed in response.closed:
            # Ours are forgotten already; this one the device gave up.
            if sequence := self._sequences.pop(closed.sequence, None):
                sequence.fail(unavailable(f"device {self.address} closed the sequence"))

    def _fail(self, failed: pb.SequenceFailed) -> None:
        sequence = self._sequences.get(failed.sequence)
        if sequence is None:
            return
        if failed.closed:
            del self._sequences[failed.sequence]
        sequence.fail(
            device_refusal(
                self.address, failed.code, failed.field, failed.message, failed.retry_after_ms
            )
        )


class _Answer(Generic[T]):
    """A value or an error that one task waits for; unlike a future, it may go unread silently."""

    __slots__ = ("_error", "_value", "_waiter")

    def __init__(self, error: RequestError | None = None) -> None:
        self._value: T | None = None
        self._error = error
        self._waiter: asyncio.Future[None] | None = None

    async def get(self) -> T:
        while self._value is None and self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._value is None:
            assert self._error is not None
            raise self._error
        return self._value

    def set(self, value: T) -> None:
        self._value = value
        self._wake()

    def fail(self, error: RequestError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _batches(commands: list[pb.Command]) -> list[list[pb.Command]]:
    """Cuts the commands into messages that fit the device's limit."""
    batches: list[list[pb.Command]] = []
    room = 0
    for command in commands:
        size = command.ByteSize()
        if size > room:
            batches.append([])
            room = _BATCH_BYTES
        batches[-1].append(command)
        room -= size
    return batches
