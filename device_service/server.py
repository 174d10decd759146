"""The device service as a server: how its parts start, stay and stop together.

Knows gRPC's server, health and reflection, and the metrics' server; knows nothing of models or
steps. It listens first, so that it can be asked while it loads; it is SERVING once a step has run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

import grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from device_service import health
from device_service.engine import Engine, LoadModel
from device_service.errors import HungError, StartError, one_line
from device_service.load_board import LoadBoard
from device_service.messages import Report
from device_service.metrics import Metrics
from device_service.servicer import DeviceServicer
from device_service.settings import Settings
from device_service.step_watch import StepWatch
from tessera.device.v1 import device_pb2, device_pb2_grpc

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 8 * 2**20
MAX_RESPONSE_BYTES = 64 * 2**20

SERVICE_NAME = device_pb2.DESCRIPTOR.services_by_name["DeviceService"].full_name

_LAST_WORDS_SECONDS = 1.0
"""For streams to end after they were told why."""

_SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    # A second service at the same address must fail, not share it.
    ("grpc.so_reuseport", 0),
    # Clients that vanished without a word are given up after 30 + 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it, the keepalive ping has 60 s
    ("grpc.http2.max_pings_without_data", 0),
    # Gateways may ping as often; the default would answer the third in 5 minutes with GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


async def serve(
    settings: Settings,
    load_model: LoadModel,
    stop: asyncio.Event,
    on_serving: Callable[[str], None] | None = None,
    *,
    may_end_process: bool = False,
) -> None:
    """Serves until `stop` is set and open sequences are closed, at most `drain_seconds` later.

    Args:
        settings: where to listen, and the limits.
        load_model: runs on the engine's thread.
        stop: the wish to stop.
        on_serving: told the address once the service is SERVING.
        may_end_process: see `StepWatch`.

    Raises:
        StartError: an address is taken, the model cannot be loaded, or the engine ended by itself.
        HungError: a step took longer than `step_timeout`, or the start made no progress.
    """
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    own_health = health.Health(SERVICE_NAME, server)
    await own_health.set(serving=False)
    metrics = Metrics(CollectorRegistry())
    metrics.watch_tasks(asyncio.get_running_loop())
    board = LoadBoard()
    broken = asyncio.Event()

    def on_report(report: Report) -> None:
        board.show(report.load)
        metrics.record(report, engine.num_streams)
        if report.broken and not broken.is_set():
            log.error("NOT SERVING until restarted: %s", report.broken)
            broken.set()

    watch = StepWatch(settings.step_limit, may_end_process=may_end_process)
    engine = Engine(load_model, settings.max_queued, on_report, watch=watch)
    servicer = DeviceServicer(engine, board, settings.max_queued)
    device_pb2_grpc.add_DeviceServiceServicer_to_server(servicer, server)
    reflection.enable_server_reflection(
        (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    with _serving_metrics(metrics, settings.metrics_listen):
        address = _listen(server, settings.listen)
        await server.start()
        try:
            if not await _load(engine, servicer, metrics, settings, stop):
                return
            await own_health.set(serving=True)
            log.info("SERVING at %s", address)
            if on_serving is not None:
                on_serving(address)
            await _serve_until_stop(engine, own_health, broken, stop)
            await _drain(engine, own_health, settings.drain_seconds)
        finally:
            board.end()
            await server.stop(_LAST_WORDS_SECONDS)


async def _load(
    engine: Engine,
    servicer: DeviceServicer,
    metrics: Metrics,
    settings: Settings,
    stop: asyncio.Event,
) -> bool:
    """Brings the model up. Returns False when a stop came first.

    Raises:
        StartError: it cannot be brought up.
        HungError: it makes no progress.
    """
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(engine.start())
    hanging = asyncio.create_task(engine.hung())
    try:
        await asyncio.wait((starting, stopping, hanging), return_when=asyncio.FIRST_COMPLETED)
        if hanging.done():
            raise HungError(f"the device hangs: {hanging.result()}")
        if not starting.done():
            log.info("stopped while the model was loading")
            return False
        info = await starting
        if settings.name is not None:
            info = dataclasses.replace(info, name=settings.name)
    except (StartError, HungError):
        raise
    except Exception as error:
        log.debug("the model did not come up", exc_info=True)
        raise StartError(f"--model {settings.model}: {one_line(error)}") from error
    finally:
        for task in (stopping, starting, hanging):
            task.cancel()
    servicer.serve(info)
    metrics.serve_model(info)
    log.info(
        "%s (%s): %s on %s, %d slots of %s positions, %d rows a step",
        *(info.name, info.architecture, info.precision, info.accelerator),
        *(info.num_slots, f"{info.context_length:,}", info.max_rows),
    )
    return True


async def _serve_until_stop(
    engine: Engine, own_health: health.Health, broken: asyncio.Event, stop: asyncio.Event
) -> None:
    stopping, breaking, ending = (
        asyncio.create_task(waiting) for waiting in (stop.wait(), broken.wait(), engine.ended())
    )
    hanging = asyncio.create_task(engine.hung())
    lasting = (stopping, ending, hanging)
    try:
        await asyncio.wait((breaking, *lasting), return_when=asyncio.FIRST_COMPLETED)
        if breaking.done():
            await own_health.set(serving=False)
            await asyncio.wait(lasting, return_when=asyncio.FIRST_COMPLETED)
        if hanging.done():
            await own_health.set(serving=False)
            log.error("NOT SERVING, and ending: %s", hanging.result())
            raise HungError(f"the device hangs: {hanging.result()}")
        if ending.done():
            raise StartError("the engine ended by itself; the log above tells why")
    finally:
        for task in (breaking, *lasting):
            task.cancel()


async def _drain(engine: Engine, own_health: health.Health, seconds: float) -> None:
    await own_health.shut_down()
    log.info("draining: open sequences have %g s to be closed", seconds)
    if not await engine.drain(seconds):
        log.warning("sequences were still open after %g s; their clients were told", seconds)
    await engine.stop()
    log.info("stopped")


@contextmanager
def _serving_metrics(metrics: Metrics, address: str | None) -> Generator[None]:
    if address is None:
        yield
        return
    host, port = _split(address)
    try:
        http_server, thread = start_http_server(port, host, registry=metrics.registry)
    except OSError as error:
        raise StartError(f"--metrics-listen {address}: {_reason(error)}") from error
    try:
        yield
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()


def _listen(server: grpc.aio.Server, address: str) -> str:
    """Binds the server; returns the address with the port that it got."""
    host, port = _split(address)
    try:
        # Asked first with a plain socket: gRPC says why in several lines of its own.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        bound = server.add_insecure_port(address)
    except OSError as error:
        raise StartError(f"--listen {address}: {_reason(error)}") from error
    except RuntimeError as error:
        raise StartError(f"--listen {address}: gRPC cannot listen there") from error
    return f"{address.rpartition(':')[0]}:{bound}"


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _reason(error: OSError) -> str:
    return f"cannot listen there: {error.strerror or error}"
