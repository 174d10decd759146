from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2

from tessera.device.v1 import device_pb2 as pb
from tests.device_service.serving import (
    Served,
    advance_command,
    best_of,
    close_command,
    open_command,
    read_best,
    send,
    serving,
)
from tests.fakes.model import FakeModel


def best(model: FakeModel, ids: list[int]) -> int:
    return int(np.argmax(model.expected_logits(ids)))


async def settled(served: Served, free_slots: int) -> pb.WatchLoadResponse:
    """The load once so many slots are free."""
    watch = served.stub.WatchLoad(pb.WatchLoadRequest(min_interval_ms=10), timeout=10)
    async for load in watch:
        if load.free_slots == free_slots:
            watch.cancel()
            return load
    raise AssertionError("the watch ended")


async def test_the_model_is_told_with_its_limits(tmp_path: Path) -> None:
    async with serving(tmp_path, FakeModel(num_slots=3), max_queued=5, name="mine") as served:
        model = await served.stub.GetModel(pb.GetModelRequest())
        assert (model.name, model.num_slots, model.max_queued) == ("mine", 3, 5)
        assert (model.vocab_size, model.context_length, model.max_rows) == (64, 256, 16)
        assert list(model.eos_token_ids) == [1]


async def test_sequences_share_a_stream_and_each_is_answered_as_alone(tmp_path: Path) -> None:
    model = FakeModel(num_slots=8)
    async with serving(tmp_path, model) as served:
        call = served.stub.Decode()
        ids = {number: [2, 10 + number] for number in range(8)}
        await send(call, *(open_command(number, x) for number, x in ids.items()))
        for _ in range(5):
            answers = await read_best(call, 8)
            for (number, position), token in answers.items():
                assert position == len(ids[number]) - 1
                assert token == best(model, ids[number])
                ids[number].append(token)
            await send(call, *(advance_command(n, len(x) - 1, x[-1]) for n, x in ids.items()))
        await call.done_writing()
        while (await call.read()) is not grpc.aio.EOF:
            pass
        assert await call.code() == grpc.StatusCode.OK
        await settled(served, free_slots=8)
    assert model.violations == []


async def test_the_columns_hold_what_the_contract_says(tmp_path: Path) -> None:
    model = FakeModel()
    async with serving(tmp_path, model) as served:
        call = served.stub.Decode()
        readout = pb.ReadoutOptions(top_candidates=3, temperature=0.5, full=True)
        await send(call, open_command(7, [2, 9], readout=readout))
        response = await call.read()
        call.cancel()
    logits = model.expected_logits([2, 9])
    order = np.argsort(-logits, kind="stable")[:3]
    readouts = response.readouts
    assert np.frombuffer(readouts.sequences, "<u4").tolist() == [7]
    assert np.frombuffer(readouts.positions, "<u4").tolist() == [1]
    assert np.frombuffer(readouts.candidate_counts, "<u4").tolist() == [3]
    assert np.frombuffer(readouts.candidate_ids, "<u4").tolist() == order.tolist()
    assert np.frombuffer(readouts.candidate_logits, "<f4").tolist() == logits[order].tolist()
    wide = logits.astype(np.float64)
    assert np.frombuffer(readouts.logsumexps, "<f4") == pytest.approx(np.log(np.exp(wide).sum()))
    assert np.frombuffer(readouts.scaled_logsumexps, "<f4") == pytest.approx(
        np.log(np.exp(wide / 0.5).sum())
    )
    for column in (readouts.queued_us, readouts.prefill_us, readouts.compute_us):
        assert len(column) == 4
    (row,) = response.full_rows
    assert (row.sequence, row.position) == (7, 1)
    assert np.array_equal(np.frombuffer(row.logits, "<f4"), logits)


async def test_many_full_rows_are_split_over_messages(tmp_path: Path) -> None:
    model = FakeModel(max_rows=80)
    async with serving(tmp_path, model) as served:
        call = served.stub.Decode()
        ids = list(range(3, 60)) + [5] * 13
        await send(call, open_command(1, [2]), advance_command(1, 1, *ids))
        await read_best(call, 71)
        await send(call, pb.Command(sequence=1, inspect=pb.Inspect()))
        rows: list[pb.FullRow] = []
        while len(rows) < 70:
            response = await call.read()
            assert len(response.full_rows) <= 32
            rows += response.full_rows
        call.cancel()
    assert [row.position for row in rows] == list(range(1, 71))
    assert np.array_equal(np.frombuffer(rows[-1].logits, "<f4"), model.expected_logits([2, *ids]))


async def test_a_refused_command_harms_no_neighbour(tmp_path: Path) -> None:
    model = FakeModel()
    async with serving(tmp_path, model) as served:
        call = served.stub.Decode()
        await send(call, open_command(1, [2]), open_command(2, [2, 64]), open_command(1, []))
        failed: list[pb.SequenceFailed] = []
        answers: dict[tuple[int, int], int] = {}
        while len(failed) < 2 or not answers:
            response = await call.read()
            failed += response.failed
            answers |= best_of(response)
        assert answers == {(1, 0): best(model, [2])}
        assert [(x.sequence, x.field, x.code, x.closed) for x in failed] == [
            (2, "open.token_ids[1]", code_pb2.INVALID_ARGUMENT, True),
            (1, "open.token_ids", code_pb2.INVALID_ARGUMENT, False),
        ]
        assert "64" in failed[0].message
        await send(call, advance_command(1, 1, 5))
        assert await read_best(call, 1) == {(1, 1): best(model, [2, 5])}
        call.cancel()


async def test_a_cancelled_stream_frees_its_slots_whatever_it_does(tmp_path: Path) -> None:
    model = FakeModel(num_slots=2, max_rows=2, step_seconds=0.01)
    async with serving(tmp_path, model) as served:
        call = served.stub.Decode()
        await send(call, *(open_command(number, [2] * 200) for number in range(3)))
        await settled(served, free_slots=0)
        call.cancel()
        load = await settled(served, free_slots=2)
        assert load.queued_sequences == 0
        assert load.queued_rows == 0


async def test_a_lost_client_frees_its_slots(tmp_path: Path) -> None:
    async with serving(tmp_path, FakeModel(num_slots=2)) as served:
        async with grpc.aio.insecure_channel(served.address) as channel:
            decode = channel.stream_stream(
                "/tessera.device.v1.DeviceService/Decode",
                request_serializer=pb.DecodeRequest.SerializeToString,
                response_deserializer=pb.DecodeResponse.FromString,
            )
            call = decode()
            await send(call, open_command(1, [2]))
            await read_best(call, 1)
        await settled(served, free_slots=2)


async def test_a_message_that_is_none_ends_its_stream_by_name_and_no_other(tmp_path: Path) -> None:
    model = FakeModel()
    async with serving(tmp_path, model) as served:
        neighbour = served.stub.Decode()
        await send(neighbour, open_command(1, [2]))
        await read_best(neighbour, 1)
        raw = served.channel.stream_stream("/tessera.device.v1.DeviceService/Decode")
        call = raw()
        await call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call.read()
        assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "DecodeRequest" in failure.value.details()
        await send(neighbour, advance_command(1, 1, 5))
        assert await read_best(neighbour, 1) == {(1, 1): best(model, [2, 5])}
        neighbour.cancel()


async def test_an_oversized_message_is_refused_with_the_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, FakeModel()) as served:
        call = served.stub.Decode()
        with contextlib.suppress(grpc.aio.AioRpcError):
            await send(call, open_command(1, [2] * 9 * 2**20))
        assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(8 * 2**20) in await call.details()


async def test_a_failed_step_is_told_and_the_service_goes_on(tmp_path: Path) -> None:
    model = FakeModel()
    async with serving(tmp_path, model) as served:
        call = served.stub.Decode()
        model.fail_next = 1
        await send(call, open_command(1, [2]))
        (failed,) = (await call.read()).failed
        assert (failed.code, failed.closed) == (code_pb2.INTERNAL, True)
        await send(call, open_command(1, [2]))
        assert await read_best(call, 1) == {(1, 0): best(model, [2])}
        call.cancel()


async def test_the_load_follows_what_happens(tmp_path: Path) -> None:
    async with serving(tmp_path, FakeModel(num_slots=2)) as served:
        watch = served.stub.WatchLoad(pb.WatchLoadRequest(min_interval_ms=10), timeout=10)
        first = await watch.read()
        assert (first.num_slots, first.free_slots, first.accepting) == (2, 2, True)
        call = served.stub.Decode()
        await send(call, *(open_command(number, [2]) for number in range(3)))
        while (load := await watch.read()).free_slots or load.queued_rows != 1:
            pass
        assert load.queued_sequences == 1
        assert load.step_time_us > 0
        watch.cancel()
        call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            async for _ in served.stub.WatchLoad(pb.WatchLoadRequest(min_interval_ms=1)):
                pass
        assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "min_interval_ms is 1" in failure.value.details()


async def test_many_streams_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    model = FakeModel(num_slots=4, step_seconds=0.001)
    async with serving(tmp_path, model) as served:

        async def come_and_go(number: int) -> None:
            call = served.stub.Decode()
            await send(call, open_command(1, [2] * (1 + number % 40)))
            await asyncio.sleep(0.0005 * (number % 11))
            if number % 3:
                call.cancel()
            else:
                await send(call, close_command(1))
                await call.done_writing()
                while (await call.read()) is not grpc.aio.EOF:
                    pass

        await asyncio.gather(*map(come_and_go, range(120)))
        load = await settled(served, free_slots=4)
        assert load.queued_sequences == 0
        call = served.stub.Decode()
        await send(call, open_command(1, [2, 3]))
        assert await read_best(call, 1) == {(1, 1): best(model, [2, 3])}
        call.cancel()
    assert model.violations == []
