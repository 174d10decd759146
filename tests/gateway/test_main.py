from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest

from deploy.local import ROOT, free_address
from gateway.health import is_serving
from tessera.gateway.v1 import gateway_pb2 as pb
from tessera.gateway.v1 import gateway_pb2_grpc
from tests.fakes.device import FakeDevice
from tests.gateway.harness import CHANNEL_OPTIONS, PATIENCE_SECONDS, demo_tokenizer, eventually
from tests.processes import DEMO_MODEL


@dataclass
class Program:
    """`python -m gateway` in a process of its own."""

    process: asyncio.subprocess.Process
    address: str

    async def ended(self) -> tuple[int, str]:
        """The exit code and what it wrote to stderr."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            _, error = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, error.decode()


@asynccontextmanager
async def program(device: str, **flags: str) -> AsyncIterator[Program]:
    values = {
        "device": device,
        "tokenizer": str(DEMO_MODEL),
        "listen": free_address(),
        "metrics-listen": free_address(),
    } | {name.replace("_", "-"): value for name, value in flags.items()}
    arguments = [part for name, value in values.items() for part in (f"--{name}", value)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "protos:."},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Program(process, values["listen"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def fake_device(**fields: object) -> AsyncIterator[FakeDevice]:
    device = FakeDevice.of(demo_tokenizer(), free_address(), **fields)
    await device.start()
    try:
        yield device
    finally:
        await device.stop()


async def serving(channel: grpc.aio.Channel) -> None:
    """Returns when the gateway at the other end serves."""

    async def is_so() -> bool:
        try:
            return await is_serving(channel, PATIENCE_SECONDS)
        except grpc.aio.AioRpcError:
            return False

    await eventually(is_so)


def request(max_tokens: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=[2, 300]),
        limits=pb.Limits(max_tokens=max_tokens, ignore_eos=True),
    )


async def test_sigterm_lets_eight_answers_finish_and_exits_zero() -> None:
    async with (
        fake_device(delay_seconds=0.01) as device,
        program(device.address) as gateway,
        grpc.aio.insecure_channel(gateway.address, CHANNEL_OPTIONS) as channel,
    ):
        await serving(channel)
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        calls = [aiter(stub.Generate(request(40))) for _ in range(8)]
        for call in calls:
            await anext(call)
        gateway.process.send_signal(signal.SIGTERM)

        async def last(call: AsyncIterator[pb.GenerateResponse]) -> pb.Finished:
            return [event async for event in call][-1].finished

        for finished in await asyncio.gather(*map(last, calls)):
            assert finished.usage.generated_tokens == 40
        code, _ = await gateway.ended()
        assert code == 0
        assert not device.open_sequences


@pytest.mark.parametrize("hurry", ["the drain limit passes", "a second signal comes"])
async def test_answers_that_do_not_finish_in_time_are_told_why(hurry: str) -> None:
    drain_seconds = "0.3" if hurry == "the drain limit passes" else "300"
    async with (
        fake_device(delay_seconds=0.05) as device,
        program(device.address, drain_seconds=drain_seconds) as gateway,
        grpc.aio.insecure_channel(gateway.address, CHANNEL_OPTIONS) as channel,
    ):
        await serving(channel)
        call = aiter(gateway_pb2_grpc.GatewayServiceStub(channel).Generate(request(2000)))
        await anext(call)
        gateway.process.send_signal(signal.SIGTERM)
        if hurry == "a second signal comes":
            await asyncio.sleep(0.1)
            gateway.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            async for _ in call:
                pass
        assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "the gateway stopped before the answer was finished" in failure.value.details()
        code, _ = await gateway.ended()
        assert code == 0


async def test_a_mismatch_at_start_is_one_line_and_exit_code_1() -> None:
    async with (
        fake_device(tokenizer_digest="ab" * 32) as device,
        program(device.address, log_level="error") as gateway,
    ):
        code, error = await gateway.ended()
    assert code == 1
    assert re.fullmatch(r"error: device \S+ has tokenizer abababababab, .*\n", error), error


@pytest.mark.parametrize("flag", ["listen", "metrics_listen"])
async def test_an_address_that_is_taken_is_one_line_and_exit_code_1(flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with program("127.0.0.1:1", log_level="error", **{flag: address}) as gateway:
            code, error = await gateway.ended()
    assert code == 1
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert f"--{flag.replace('_', '-')}: can't serve at {address}" in line
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        ({"listen": "nowhere"}, 2, "--listen (or TESSERA_GATEWAY_LISTEN): must be HOST:PORT"),
        ({"sing": "1"}, 2, "unrecognized arguments: --sing 1"),
        ({"tokenizer": "protos"}, 2, "must be a directory with a tokenizer.json"),
    ],
)
async def test_bad_usage_is_one_line_and_exit_code_2(
    flags: dict[str, str], code: int, says: str
) -> None:
    async with program("127.0.0.1:1", **flags) as gateway:
        ended, error = await gateway.ended()
    assert ended == code
    assert says in error
    assert error.count("\n") == 1
