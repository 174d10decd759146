"""The gateway as a server: how its parts start, stay and stop together.

Knows gRPC's server, health and reflection; knows nothing of what the parts do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import grpc
from grpc_reflection.v1alpha import reflection

from gateway import health
from gateway.devices import DevicePool, TokenizerIdentity
from gateway.metrics import Metrics
from gateway.metrics_server import serving_metrics
from gateway.servicer import GatewayServicer
from gateway.settings import Settings
from gateway.tokenizer import Tokenizer
from gateway.unparsed import ParseInHandler
from tessera.gateway.v1 import gateway_pb2, gateway_pb2_grpc

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 * 2**20
SERVICE_NAME = gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"].full_name

# Seconds for calls to end after they were told why.
_LAST_WORDS_SECONDS = 1.0

_SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A second gateway at the same address must fail, not share it.
    ("grpc.so_reuseport", 0),
    # Clients that vanished without a word are given up after 30 + 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it, the keepalive ping has 60 s
    ("grpc.http2.max_pings_without_data", 0),
    # Clients may ping us as often; the default would answer the third in 5 minutes with GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class StartError(Exception):
    """The gateway can't start; one line that says why."""


class Stop:
    """A wish to stop: the first lets answers finish, the second does not wait."""

    def __init__(self) -> None:
        self._wished = asyncio.Event()
        self._at_once = asyncio.Event()

    def wish(self) -> None:
        """Wishes, the second time more urgently."""
        (self._at_once if self._wished.is_set() else self._wished).set()

    async def wished(self) -> None:
        """Returns once a stop is wished for."""
        await self._wished.wait()

    async def at_once(self) -> None:
        """Returns once a stop is wished for that does not wait."""
        await self._at_once.wait()


async def serve(settings: Settings, tokenizer: Tokenizer, stop: Stop) -> None:
    """Serves until `stop` is wished for and answers have finished, at most `drain_seconds` later.

    Raises:
        StartError: an address is taken.
        DeviceMismatchError: the device serves something else than the tokenizer's model.
    """
    metrics = Metrics()
    metrics.watch_tasks(asyncio.get_running_loop())
    pool = DevicePool([settings.device], _identity(tokenizer))
    servicer = GatewayServicer(
        pool, tokenizer, metrics, settings.max_concurrent, settings.top_candidates
    )
    own_health = health.Health((SERVICE_NAME,))
    await own_health.set(serving=False)
    server = grpc.aio.server(interceptors=(ParseInHandler(),), options=_SERVER_OPTIONS)
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, server)
    own_health.add_to(server)
    reflection.enable_server_reflection(
        (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    with _serving_metrics(metrics, settings.metrics_listen):
        _listen(server, settings.listen)
        await server.start()
        metrics_at = settings.metrics_listen or "no port"
        log.info("serving gRPC at %s, metrics at %s", settings.listen, metrics_at)
        devices = asyncio.create_task(pool.run())
        health_follower = asyncio.create_task(_follow_health(pool, own_health, metrics))
        stop_wished = asyncio.create_task(stop.wished())
        tasks = (devices, health_follower, stop_wished)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not stop_wished.done():
                for task in tasks:  # one failed: its error is the gateway's
                    if task.done():
                        await task
            await own_health.shut_down()
            await _drain(server, servicer, pool, stop, settings.drain_seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await server.stop(None)


async def _drain(
    server: grpc.aio.Server,
    servicer: GatewayServicer,
    pool: DevicePool,
    stop: Stop,
    drain_seconds: float,
) -> None:
    """Takes nothing new, lets answers finish, and tells those that do not why."""
    log.info("stopping: running answers have %g s to finish", drain_seconds)
    servicer.start_draining()
    closing = asyncio.create_task(server.stop(drain_seconds + 2 * _LAST_WORDS_SECONDS))
    idle = asyncio.create_task(servicer.idle())
    at_once = asyncio.create_task(stop.at_once())
    await asyncio.wait((idle, at_once), timeout=drain_seconds, return_when=asyncio.FIRST_COMPLETED)
    if not idle.done():
        log.warning("ending the answers that still run")
        pool.fail_all(
            "the gateway stopped before the answer was finished; send the request again, with "
            "`resume` to keep the answer so far"
        )
        await asyncio.wait((idle,), timeout=_LAST_WORDS_SECONDS)
    # Health watchers would keep the server for ever.
    await server.stop(0.1)
    await closing
    for task in (idle, at_once):
        task.cancel()
    await asyncio.wait((idle, at_once))
    log.info("stopped")


def _listen(server: grpc.aio.Server, address: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise StartError(f"--listen: can't serve at {address}: is it taken?") from None


@contextmanager
def _serving_metrics(metrics: Metrics, address: str | None) -> Generator[None]:
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        try:
            stack.enter_context(serving_metrics(metrics.registry, host.strip("[]"), int(port)))
        except OSError as error:
            raise StartError(
                f"--metrics-listen: can't serve at {address}: {error.strerror or error}"
            ) from None
        yield


async def _follow_health(pool: DevicePool, own_health: health.Health, metrics: Metrics) -> None:
    async for ready in pool.watch_ready():
        metrics.device_ready.set(ready)
        await own_health.set(serving=ready)


def _identity(tokenizer: Tokenizer) -> TokenizerIdentity:
    text_ids = set(range(tokenizer.vocab_size)).difference(tokenizer.control_token_ids)
    return TokenizerIdentity(tokenizer.digest, max(text_ids) + 1)
