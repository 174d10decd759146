from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from deploy.local import ROOT, free_address
from gateway.devices import DeviceMismatchError
from gateway.health import is_serving
from tessera.gateway.v1 import gateway_pb2 as pb
from tests.fakes.device import FakeDevice, scripted
from tests.gateway.harness import (
    CHANNEL_OPTIONS,
    PATIENCE_SECONDS,
    Running,
    demo_tokenizer,
    eventually,
    fields_at_fault,
    running_gateway,
)
from tests.processes import DEMO_MODEL


def endless() -> pb.GenerateRequest:
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=[2, 300]), limits=pb.Limits(max_tokens=2000, ignore_eos=True)
    )


def brief() -> pb.GenerateRequest:
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=[2, 300]), limits=pb.Limits(max_tokens=3, ignore_eos=True)
    )


def fake(**fields: object) -> FakeDevice:
    return FakeDevice.of(demo_tokenizer(), free_address(), **fields)


async def failure_of(gateway: Running, request: pb.GenerateRequest) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.answer(request)
    return failure.value


async def test_a_gateway_waits_for_its_device_and_serves_when_it_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    device = fake()
    async with running_gateway(device, start_device=False) as gateway:
        await gateway.serving(False)
        assert (await failure_of(gateway, brief())).code() == grpc.StatusCode.UNAVAILABLE
        await device.start()
        await gateway.serving()
        assert (await gateway.answer(brief())).finished is not None
    assert any(f"waiting for device {device.address}" in message for message in caplog.messages)


async def test_a_device_that_does_not_serve_yet_is_waited_for() -> None:
    device = fake(serving=False)
    await device.start()
    async with running_gateway(device, start_device=False) as gateway:

        async def told() -> bool:
            error = await failure_of(gateway, brief())
            return "it is up, and does not serve yet" in error.details()

        await eventually(told)
        await gateway.serving(False)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"tokenizer_digest": "ab" * 32},
            r"has tokenizer abababababab, this gateway has [0-9a-f]{12}",
        ),
        (
            {"vocab_size": 1000},
            r"has a vocabulary of 1000 ids, this gateway's tokenizer writes 1536",
        ),
    ],
)
async def test_a_device_of_another_model_is_refused_at_start(
    fields: dict[str, object], says: str
) -> None:
    device = fake(**fields)
    await device.start()
    async with running_gateway(device, start_device=False) as gateway:
        with pytest.raises(DeviceMismatchError, match=says) as failure:
            await asyncio.wait_for(gateway.task, PATIENCE_SECONDS)
        assert device.address in str(failure.value)


async def test_a_larger_vocabulary_is_padding_and_a_missing_tokenizer_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vocab_size = demo_tokenizer().vocab_size
    padded = fake(
        vocab_size=vocab_size + 64,
        logits=scripted(vocab_size + 64, [vocab_size + 3, 400, 1]),
        tokenizer_digest="",
    )
    async with running_gateway(padded) as gateway:
        request = brief()
        request.sampling.temperature = 0
        request.output.token_ids = True
        answered = await gateway.answer(request)
        assert answered.token_ids == [vocab_size + 3, 400, 1]
        assert answered.text == demo_tokenizer().decode([400])
    assert any("no tokenizer.json to compare" in message for message in caplog.messages)


async def test_a_device_that_dies_is_told_to_its_clients_and_found_again() -> None:
    async with running_gateway() as gateway:
        gateway.device.delay_seconds = 0.01
        calls = [asyncio.create_task(failure_of(gateway, endless())) for _ in range(8)]

        async def all_run() -> bool:
            return len(gateway.device.open_sequences) == 8

        await eventually(all_run)
        await gateway.device.stop()
        for error in await asyncio.gather(*calls):
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert f"device {gateway.device.address} was lost" in error.details()
            assert "resume" in error.details()
            assert fields_at_fault(error) == []
        await gateway.serving(False)
        assert (await failure_of(gateway, brief())).code() == grpc.StatusCode.UNAVAILABLE
        await gateway.device.start()
        await gateway.serving()
        assert (await gateway.answer(brief())).finished is not None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"checkpoint_digest": "0123456789abcdef"},
            "came back with another checkpoint, 0123456789ab",
        ),
        ({"tokenizer_digest": "feedfeedfeedfeed"}, "has tokenizer feedfeedfeed"),
        ({"vocab_size": 7}, "has a vocabulary of 7 ids"),
    ],
)
async def test_a_device_that_comes_back_as_another_is_refused_until_it_is_itself(
    fields: dict[str, object], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_gateway() as gateway:
        own = {name: getattr(gateway.device, name) for name in fields}
        await gateway.device.stop()
        for name, value in fields.items():
            setattr(gateway.device, name, value)
        await gateway.device.start()

        async def told() -> bool:
            error = await failure_of(gateway, brief())
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            return says in error.details()

        await eventually(told)
        await gateway.serving(False)
        assert any(says in message for message in caplog.messages)
        for name, value in own.items():
            setattr(gateway.device, name, value)
        await gateway.serving()
        await gateway.answer(brief())


async def test_a_device_that_answers_nonsense_is_lost_in_words() -> None:
    async with running_gateway() as gateway:
        gateway.device.logits = scripted(100, [5])  # rows of another size than it told
        request = brief()
        # A bias on an id that is no candidate can be settled by the full row only.
        request.sampling.logit_bias[1500] = 90
        error = await failure_of(gateway, request)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "it sent a row of 100 logits; the vocabulary has 1536" in error.details()
        await gateway.serving()


@asynccontextmanager
async def device_process(address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The fake device in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.fakes.device", "--listen", address, "--tokenizer", str(DEMO_MODEL)),
        *("--delay", "0.01"),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "protos:."},
    )
    try:
        async with grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) as channel:
            await asyncio.wait_for(channel.channel_ready(), PATIENCE_SECONDS)
            assert await is_serving(channel, PATIENCE_SECONDS)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_a_device_process_that_falls_silent_is_told_to_its_clients(
    number: signal.Signals,
) -> None:
    device = fake()
    async with (
        device_process(device.address) as process,
        running_gateway(device, start_device=False) as gateway,
    ):
        await gateway.serving()
        call = gateway.stub.Generate(endless())
        await anext(aiter(call))
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                async for _ in call:
                    pass
        assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
        assert device.address in failure.value.details()
        await gateway.serving(False)
        if number == signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
            await gateway.serving()
            assert (await gateway.answer(brief())).finished is not None
