from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from device_service.engine import run_first_step
from device_service.errors import HungError, StartError
from device_service.model.interface import Model, ReportProgress, StepBatch, StepReadouts
from tessera.device.v1 import device_pb2 as pb
from tests.device_service.serving import (
    Served,
    advance_command,
    close_command,
    open_command,
    read_best,
    send,
    serving,
)
from tests.fakes.model import FakeModel

SERVICE = "tessera.device.v1.DeviceService"
Status = health_pb2.HealthCheckResponse


def watch_health(served: Served) -> grpc.aio.UnaryStreamCall:
    return health_pb2_grpc.HealthStub(served.channel).Watch(
        health_pb2.HealthCheckRequest(service=SERVICE), timeout=20
    )


async def test_health_is_live_and_turns_before_the_drain_is_over(tmp_path: Path) -> None:
    async with serving(tmp_path, FakeModel()) as served:
        watch = watch_health(served)
        assert (await watch.read()).status == Status.SERVING
        call = served.stub.Decode()
        await send(call, open_command(1, [2]))
        await read_best(call, 1)
        served.stop.set()
        assert (await watch.read()).status == Status.NOT_SERVING
        await send(call, close_command(1))


async def test_a_drain_lets_sequences_go_on_refuses_new_ones_and_ends_idle_streams(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, FakeModel()) as served:
        idle, call = served.stub.Decode(), served.stub.Decode()
        await send(idle, open_command(1, [2]), close_command(1))
        assert (await idle.read()).closed[0].sequence == 1
        await send(call, open_command(1, [2]))
        await read_best(call, 1)
        loads = served.stub.WatchLoad(pb.WatchLoadRequest(min_interval_ms=10), timeout=10)
        served.stop.set()
        while (await loads.read()).accepting:
            pass
        with pytest.raises(grpc.aio.AioRpcError) as end:
            await idle.read()
        assert end.value.code() == grpc.StatusCode.UNAVAILABLE
        await send(call, open_command(2, [2]))
        (failed,) = (await call.read()).failed
        assert (failed.code, failed.closed) == (code_pb2.UNAVAILABLE, True)
        for length in range(1, 6):
            await send(call, advance_command(1, length, 5))
            await read_best(call, 1)
        assert not served.task.done()
        await send(call, close_command(1))
        assert (await call.read()).closed[0].sequence == 1
        with pytest.raises(grpc.aio.AioRpcError) as end:
            await call.read()
        assert end.value.code() == grpc.StatusCode.UNAVAILABLE
        await asyncio.wait_for(served.task, 10)


async def test_at_the_drain_limit_sequences_are_told_and_lost(tmp_path: Path) -> None:
    model = FakeModel()
    async with serving(tmp_path, model, drain_seconds=0.2) as served:
        call = served.stub.Decode()
        await send(call, open_command(1, [2]))
        await read_best(call, 1)
        served.stop.set()
        (failed,) = (await call.read()).failed
        assert (failed.code, failed.closed) == (code_pb2.UNAVAILABLE, True)
        assert "0.2 s" in failed.message
        await asyncio.wait_for(served.task, 10)
    assert model.closed


async def test_steps_that_keep_failing_turn_health_and_refuse_opens(tmp_path: Path) -> None:
    model = FakeModel()
    async with serving(tmp_path, model) as served:
        watch = watch_health(served)
        assert (await watch.read()).status == Status.SERVING
        model.fail_next = 3
        call = served.stub.Decode()
        for number in range(3):
            await send(call, open_command(number, [2]))
            assert (await call.read()).failed[0].code == code_pb2.INTERNAL
        assert (await watch.read()).status == Status.NOT_SERVING
        await send(call, open_command(9, [2]))
        (failed,) = (await call.read()).failed
        assert failed.code == code_pb2.UNAVAILABLE
        assert "told to fail" in failed.message
        call.cancel()


async def test_a_step_that_hangs_is_told_turns_health_and_ends_the_service(tmp_path: Path) -> None:
    model = FakeModel()
    with pytest.raises(HungError, match=r"run for \d+ s, and may take 0.3"):  # noqa: PT012 the service's own
        async with serving(tmp_path, model, step_timeout=0.3) as served:
            watch = watch_health(served)
            assert (await watch.read()).status == Status.SERVING
            idle, call = served.stub.Decode(), served.stub.Decode()
            await send(idle, open_command(1, [2]), close_command(1))
            assert (await idle.read()).closed[0].sequence == 1
            model.step_seconds = 3.0
            await send(call, open_command(1, [2]))
            for stream in (call, idle):
                with pytest.raises(grpc.aio.AioRpcError) as end:
                    assert not (await stream.read()).failed
                assert end.value.code() == grpc.StatusCode.UNAVAILABLE
                assert "the device hangs: a step of the model has run" in end.value.details()
            assert (await watch.read()).status == Status.NOT_SERVING
            await asyncio.wait_for(asyncio.shield(served.task), 10)


async def test_a_start_without_progress_ends_the_service(tmp_path: Path) -> None:
    def load(report: ReportProgress) -> Model:
        for _ in range(10):  # longer than the limit, all together
            time.sleep(0.1)
            report("on its way")
        time.sleep(4.0)
        return FakeModel()

    with pytest.raises(HungError, match=r"no progress for 1 s, and may take 0.6"):
        async with serving(tmp_path, FakeModel(), load, step_timeout=0.1):
            pass


async def test_a_step_within_its_time_is_no_hang(tmp_path: Path) -> None:
    async with serving(tmp_path, FakeModel(step_seconds=0.1), step_timeout=1.0) as served:
        call = served.stub.Decode()
        await send(call, open_command(1, [2]))
        for length in range(1, 15):  # longer than the limit, all together
            await read_best(call, 1)
            await send(call, advance_command(1, length, 5))
        await read_best(call, 1)
        assert not served.task.done()
        await send(call, close_command(1))


async def test_calls_are_unavailable_and_health_not_serving_while_the_model_loads(
    tmp_path: Path,
) -> None:
    go_on = threading.Event()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"

    def load(report: ReportProgress) -> Model:
        assert go_on.wait(20)
        return FakeModel()

    async def ask() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 10)
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == Status.NOT_SERVING
            get_model = channel.unary_unary(f"/{SERVICE}/GetModel")
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await get_model(b"")
            assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "loading" in failure.value.details()

    asking = asyncio.create_task(ask())
    asking.add_done_callback(lambda _: go_on.set())
    async with serving(tmp_path, FakeModel(), load, listen=address) as served:
        await asking
        assert (await watch_health(served).read()).status == Status.SERVING


async def test_a_fault_while_loading_is_one_line(tmp_path: Path) -> None:
    def load(report: ReportProgress) -> Model:
        raise RuntimeError("the tensor of doom is missing\nand much more")

    with pytest.raises(StartError) as failure:
        async with serving(tmp_path, FakeModel(), load):
            pass
    assert str(failure.value) == f"--model {tmp_path}: the tensor of doom is missing"


class NotANumber(FakeModel):
    def step(self, batch: StepBatch) -> StepReadouts:
        readouts = super().step(batch)
        readouts.logsumexps[:] = np.nan
        return readouts


def test_a_model_whose_first_step_gives_no_numbers_is_not_served() -> None:
    with pytest.raises(StartError, match="not finite"):
        run_first_step(NotANumber())


@pytest.mark.parametrize("setting", ["listen", "metrics_listen"])
async def test_a_taken_address_is_told_by_its_flag(tmp_path: Path, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError) as failure:
            async with serving(tmp_path, FakeModel(), **{setting: address}):
                pass
    flag = f"--{setting.replace('_', '-')} {address}"
    assert str(failure.value) == f"{flag}: cannot listen there: Address already in use"


async def test_reflection_names_the_services(tmp_path: Path) -> None:
    async with serving(tmp_path, FakeModel()) as served:
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)

        async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")

        async for answer in stub.ServerReflectionInfo(ask()):
            names = {service.name for service in answer.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_metrics_tell_what_happened(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    model = FakeModel(num_slots=2)
    async with serving(tmp_path, model, metrics_listen=address) as served:
        call = served.stub.Decode()
        await send(call, open_command(1, [2] * 20), advance_command(1, 20, 5, 6))
        await read_best(call, 3)
        await send(call, open_command(2, []))
        while not (await call.read()).failed:
            pass

        def read() -> str:
            return urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read().decode()

        text = await asyncio.to_thread(read)
        call.cancel()
    for line in (
        "tessera_device_slots 2.0",
        "tessera_device_free_slots 1.0",
        "tessera_device_open_sequences 1.0",
        "tessera_device_waiting_sequences 0.0",
        "tessera_device_kv_tokens 22.0",
        "tessera_device_streams 1.0",
        "tessera_device_accepting 1.0",
        "tessera_device_sequences_opened_total 1.0",
        'tessera_device_rows_total{kind="prompt"} 20.0',
        'tessera_device_rows_total{kind="decode"} 2.0',
        'tessera_device_failed_total{code="INVALID_ARGUMENT"} 1.0',
        "tessera_device_queue_seconds_count 2.0",
    ):
        assert line in text.splitlines()
    assert "tessera_device_asyncio_tasks" in text
    assert "process_resident_memory_bytes" in text


async def test_a_stop_while_the_model_loads_does_not_wait_for_it(tmp_path: Path) -> None:
    from device_service.server import serve
    from device_service.settings import Settings

    (tmp_path / "config.json").write_text("{}")
    loading, go_on = threading.Event(), threading.Event()

    def load(report: ReportProgress) -> Model:
        loading.set()
        go_on.wait(20)
        return FakeModel()

    stop = asyncio.Event()
    settings = Settings(model=tmp_path, listen="127.0.0.1:0", metrics_listen=None)
    task = asyncio.create_task(serve(settings, load, stop))
    with contextlib.closing(_Setter(go_on)):
        assert await asyncio.to_thread(loading.wait, 10)
        stop.set()
        await asyncio.wait_for(task, 10)


class _Setter:
    """Lets the loader go on when the test is over."""

    def __init__(self, event: threading.Event) -> None:
        self.close = event.set
