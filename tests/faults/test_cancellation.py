"""Acceptance: requests that end at any moment, in any way, leave nothing behind."""

from __future__ import annotations

import asyncio
import random
import sys
import time

import grpc
import psutil
import pytest

from deploy.local import ROOT
from tessera.gateway.v1 import gateway_pb2 as pb
from tessera.gateway.v1 import gateway_pb2_grpc
from tests.processes import DEMO_MODEL, Services, metric, running_services

# Kills itself, without a word to the gateway, in the middle of its answers.
DYING_CLIENT = """
import os, signal, sys, threading, time
import grpc
from tessera.gateway.v1 import gateway_pb2 as pb, gateway_pb2_grpc
stub = gateway_pb2_grpc.GatewayServiceStub(grpc.insecure_channel(sys.argv[1]))
def ask():
    for _ in stub.Generate(pb.GenerateRequest(
            text="Once upon a time,", limits=pb.Limits(max_tokens=1500, ignore_eos=True))):
        pass
for _ in range(int(sys.argv[2])):
    threading.Thread(target=ask, daemon=True).start()
time.sleep(float(sys.argv[3]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def endless(rng: random.Random) -> pb.GenerateRequest:
    """A request that goes on longer than anyone waits; some prompts span several steps."""
    return pb.GenerateRequest(
        text="Once upon a time, " * rng.choice((1, 1, 1, 40)),
        limits=pb.Limits(max_tokens=1000, ignore_eos=True),
        sampling=pb.Sampling(seed=rng.getrandbits(32)),
    )


async def cancelled(stub: gateway_pb2_grpc.GatewayServiceAsyncStub, rng: random.Random) -> None:
    """The client lets go after a moment."""
    call = stub.Generate(endless(rng))

    async def read() -> None:
        async for _ in call:
            pass

    reader = asyncio.create_task(read())
    await asyncio.sleep(rng.expovariate(1 / 0.15))
    call.cancel()
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await reader


async def overdue(stub: gateway_pb2_grpc.GatewayServiceAsyncStub, rng: random.Random) -> None:
    """The deadline comes first."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in stub.Generate(endless(rng), timeout=0.001 + rng.expovariate(1 / 0.15)):
            pass
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def killed(services: Services, rng: random.Random, num_requests: int) -> None:
    """The client's process dies."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        DYING_CLIENT,
        services.gateway_address,
        str(num_requests),
        str(0.3 + rng.random()),
        cwd=ROOT,
        env={"PYTHONPATH": "protos:.", "PATH": ""},
    )
    assert await process.wait() == -9


async def storm(services: Services, num_requests: int, seed: int) -> None:
    """`num_requests` of all three kinds, at most 24 at once (more than there are slots)."""
    rng = random.Random(seed)
    room = asyncio.Semaphore(24)

    async def one(kind: int) -> None:
        async with room:
            await (cancelled, overdue)[kind % 2](stub, rng)

    async with grpc.aio.insecure_channel(services.gateway_address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        num_killed = num_requests // 5
        async with asyncio.TaskGroup() as group:
            for number in range(num_requests - num_killed):
                group.create_task(one(number))
            for _ in range(num_killed // 10):
                await killed(services, rng, num_requests=10)


def left_over(services: Services) -> dict[str, float]:
    """Everything that a request holds while it lives, as the two programs tell it."""
    device, gateway = services.device_metrics, services.gateway_metrics
    slots = metric(device, "tessera_device_slots")
    return {
        "slots held": slots - metric(device, "tessera_device_free_slots"),
        "sequences open": metric(device, "tessera_device_open_sequences"),
        "sequences waiting": metric(device, "tessera_device_waiting_sequences"),
        "requests running": metric(gateway, "tessera_num_requests_running"),
        "requests waiting": metric(gateway, "tessera_num_requests_waiting"),
        "gateway tasks": metric(gateway, "tessera_asyncio_tasks"),
        "device tasks": metric(device, "tessera_device_asyncio_tasks"),
    }


def settle(services: Services, idle: dict[str, float]) -> dict[str, float]:
    """What is left once nothing changes any more, or after ten seconds."""
    deadline = time.monotonic() + 10
    while (left := left_over(services)) != idle and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def memory_bytes(services: Services) -> dict[str, int]:
    return {
        program.name: psutil.Process(program.process.pid).memory_info().rss
        for program in (services.device, services.gateway)
    }


def run_storms(num_storms: int, num_requests: int) -> None:
    with running_services(
        DEMO_MODEL, device_flags={"precision": "float32", "slots": "8", "threads": "1"}
    ) as services:
        # The first storm fills caches and pools; from then on, memory must stay where it is.
        asyncio.run(storm(services, num_requests // 4, seed=1))
        time.sleep(1)
        idle = left_over(services)
        assert all(value == 0 for name, value in idle.items() if "tasks" not in name), idle
        before = memory_bytes(services)
        for number in range(num_storms):
            asyncio.run(storm(services, num_requests, seed=2 + number))
            assert settle(services, idle) == idle
        after = memory_bytes(services)
    for name, resident in after.items():
        assert resident - before[name] < 24 * 2**20, f"the {name} grew from {before[name]}"


def test_five_hundred_cancelled_requests_leave_nothing_and_memory_stays_flat() -> None:
    run_storms(num_storms=1, num_requests=500)


@pytest.mark.soak
def test_thousands_of_cancelled_requests_leave_nothing_and_memory_stays_flat() -> None:
    run_storms(num_storms=10, num_requests=500)
