"""The devices behind the gateway: which there are, which serve, and whom a request goes to.

Knows addresses, identity and reconnection; knows nothing of requests or text. Today the pool has
one device; requests ask the pool all the same, so that balancing and failover have their place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

import grpc

from gateway.decode import DecodeStream
from gateway.decode import Sequence as DeviceSequence
from gateway.errors import unavailable
from gateway.health import is_serving
from tessera.device.v1 import device_pb2, device_pb2_grpc

log = logging.getLogger(__name__)

# How soon a lost device is found again, and a silent one (stopped, unplugged) is given up: after
# keepalive_time + ping_timeout. A device must allow pings this often, or it answers GOAWAY.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 8 * 2**20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it, the keepalive ping has 60 s
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
GREETING_SECONDS = 3.0
RETRY_SECONDS = 0.2
PROGRESS_SECONDS = 10.0


class DeviceMismatchError(Exception):
    """A device that answers, but serves something else than this gateway speaks."""


class DeviceNotReadyError(Exception):
    """A device that answers, and still starts or already stops."""


@dataclass(frozen=True, slots=True)
class TokenizerIdentity:
    """What a device must agree with."""

    digest: str
    """SHA-256 (hex) of tokenizer.json."""
    num_text_ids: int
    """Ids below it are what text can become; the model's vocabulary must hold them."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model of a device, with the limits that a request must keep."""

    name: str
    architecture: str
    vocab_size: int
    context_length: int
    max_top_candidates: int
    eos_token_ids: tuple[int, ...]
    checkpoint_digest: str
    tokenizer_digest: str
    backend: str
    precision: str


class Device:
    """One device: looks for it, checks who it is, keeps a `Decode` stream to it.

    Attributes:
        address: HOST:PORT.
        trouble: why it does not serve; empty while it does.
    """

    def __init__(
        self, address: str, tokenizer: TokenizerIdentity, on_change: Callable[[], None]
    ) -> None:
        self.address = address
        self.trouble = "not reached yet"
        self._tokenizer = tokenizer
        self._on_change = on_change
        self._first_model: ServedModel | None = None
        self._model: ServedModel | None = None
        self._stream: DecodeStream | None = None

    @property
    def ready(self) -> bool:
        """Whether sequences can be opened."""
        return self._stream is not None

    @property
    def model(self) -> ServedModel:
        """What it serves; only of a device that is ready."""
        assert self._model is not None
        return self._model

    def open(
        self, token_ids: Sequence[int], readout: device_pb2.ReadoutOptions, priority: int
    ) -> DeviceSequence:
        """Starts a sequence.

        Raises:
            RequestError: the device is lost.
        """
        if self._stream is None:
            raise unavailable(f"device {self.address} does not serve: {self.trouble}")
        return self._stream.open(token_ids, readout, priority)

    async def run(self) -> None:
        """Finds the device, and finds it again whenever it is lost, until cancelled.

        Raises:
            DeviceMismatchError: the first device found serves something else. (Later such devices
                are logged, and tried again: the right one may come back.)
        """
        async with grpc.aio.insecure_channel(self.address, CHANNEL_OPTIONS) as channel:
            while True:
                model = await self._find(channel)
                await self._serve(channel, model)
                await asyncio.sleep(RETRY_SECONDS)

    def fail_all(self, message: str) -> None:
        """Ends every sequence with UNAVAILABLE and this message, and refuses new ones."""
        if self._stream is not None:
            self._stream.fail_all(message)

    async def _find(self, channel: grpc.aio.Channel) -> ServedModel:
        """Tries until the device serves what it should, and tells of the waiting."""
        log.info("looking for device %s", self.address)
        waiting_since = time.monotonic()
        reported_at = waiting_since
        while True:
            try:
                return await self._greet(channel)
            except grpc.aio.AioRpcError as error:
                trouble = f"{error.code().name}: {error.details()}"
            except DeviceNotReadyError as error:
                trouble = str(error)
            except DeviceMismatchError as error:
                if self._first_model is None:
                    raise
                trouble = str(error)
            now = time.monotonic()
            if trouble != self.trouble or now - reported_at >= PROGRESS_SECONDS:
                reported_at = now
                waited = now - waiting_since
                log.warning("waiting for device %s, %.0f s: %s", self.address, waited, trouble)
            self.trouble = trouble
            await asyncio.sleep(RETRY_SECONDS)

    async def _greet(self, channel: grpc.aio.Channel) -> ServedModel:
        """Asks whether the device serves, and what."""
        if not await is_serving(channel, GREETING_SECONDS):
            raise DeviceNotReadyError("it is up, and does not serve yet")
        stub = device_pb2_grpc.DeviceServiceStub(channel)
        answer = await stub.GetModel(device_pb2.GetModelRequest(), timeout=GREETING_SECONDS)
        model = _served_model(answer)
        self._check(model)
        return model

    def _check(self, model: ServedModel) -> None:
        where = f"device {self.address}"
        if not model.tokenizer_digest:
            log.warning("%s has no tokenizer.json to compare with this gateway's", where)
        elif model.tokenizer_digest != self._tokenizer.digest:
            raise DeviceMismatchError(
                f"{where} has tokenizer {_brief(model.tokenizer_digest)}, this gateway has "
                f"{_brief(self._tokenizer.digest)}: give both the same checkpoint"
            )
        if model.vocab_size < self._tokenizer.num_text_ids:
            raise DeviceMismatchError(
                f"{where} has a vocabulary of {model.vocab_size} ids, this gateway's tokenizer "
                f"writes {self._tokenizer.num_text_ids}: give both the same checkpoint"
            )
        first = self._first_model
        if first is not None and model.checkpoint_digest != first.checkpoint_digest:
            raise DeviceMismatchError(
                f"{where} came back with another checkpoint, "
                f"{_brief(model.checkpoint_digest)} instead of "
                f"{_brief(first.checkpoint_digest)}: restart the gateway if that is meant"
            )

    async def _serve(self, channel: grpc.aio.Channel, model: ServedModel) -> None:
        """Keeps the stream until it ends."""
        call = device_pb2_grpc.DeviceServiceStub(channel).Decode()
        self._stream = DecodeStream(self.address, call, model.vocab_size)
        self._model = model
        self._first_model = self._first_model or model
        self.trouble = ""
        log.info(
            "device %s serves %s (%s, %s)", self.address, model.name, model.backend, model.precision
        )
        self._on_change()
        try:
            reason = await self._stream.run()
            self.trouble = f"lost: {reason}"
            log.warning("device %s was lost: %s", self.address, reason)
        finally:
            self._stream = None
            self._on_change()


class DevicePool:
    """All devices of the gateway."""

    def __init__(self, addresses: Sequence[str], tokenizer: TokenizerIdentity) -> None:
        self._changed = asyncio.Event()
        self._devices = [Device(address, tokenizer, self._changed.set) for address in addresses]

    @property
    def ready(self) -> bool:
        """Whether any device can take a request."""
        return any(device.ready for device in self._devices)

    def choose(self) -> Device:
        """The device for a new request.

        Raises:
            RequestError: none is ready; the message says why.
        """
        for device in self._devices:
            if device.ready:
                return device
        raise unavailable(
            "no device is ready: "
            + "; ".join(f"{device.address}: {device.trouble}" for device in self._devices)
        )

    def fail_all(self, message: str) -> None:
        """Ends every sequence on every device with UNAVAILABLE and this message."""
        for device in self._devices:
            device.fail_all(message)

    async def run(self) -> None:
        """Keeps all devices, until cancelled.

        Raises:
            DeviceMismatchError: a device serves something else than this gateway speaks.
        """
        await asyncio.gather(*(device.run() for device in self._devices))

    async def watch_ready(self) -> AsyncGenerator[bool]:
        """Yields `ready`, now and whenever it may have changed. For one watcher."""
        while True:
            self._changed.clear()
            yield self.ready
            await self._changed.wait()


def _served_model(answer: device_pb2.GetModelResponse) -> ServedModel:
    return ServedModel(
        name=answer.name,
        architecture=answer.architecture,
        vocab_size=answer.vocab_size,
        context_length=answer.context_length,
        max_top_candidates=answer.max_top_candidates,
        eos_token_ids=tuple(answer.eos_token_ids),
        checkpoint_digest=answer.checkpoint_digest,
        tokenizer_digest=answer.tokenizer_digest,
        backend=answer.backend,
        precision=answer.precision,
    )


def _brief(digest: str) -> str:
    return digest[:12]
