"""Acceptance: stopping and losing the programs, with streams in flight."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from deploy.programs import start_program, stop_program, wait_serving
from tessera.gateway.v1 import gateway_pb2 as pb
from tests.processes import DEMO_MODEL, Services, gateway_stub, running_services

NUM_STREAMS = 8


@pytest.fixture
def own_services() -> Iterator[Services]:
    """Programs of one test's own, that it may stop or kill."""
    with running_services(
        DEMO_MODEL, device_flags={"precision": "float32", "slots": "8", "threads": "1"}
    ) as running:
        yield running


class Streams:
    """`NUM_STREAMS` answers in flight, each known to have begun."""

    def __init__(self, services: Services, max_tokens: int) -> None:
        self._begun = threading.Barrier(NUM_STREAMS + 1, timeout=60)
        self._max_tokens = max_tokens
        self._stub = gateway_stub(services)
        self._pool = ThreadPoolExecutor(NUM_STREAMS)
        self._ended_at: list[float] = []
        self.results: list[Future[pb.Finished]] = []

    def __enter__(self) -> Streams:
        stub = self._stub.__enter__()

        def read() -> pb.Finished:
            request = pb.GenerateRequest(
                text="Once upon a time,",
                limits=pb.Limits(max_tokens=self._max_tokens, ignore_eos=True),
            )
            begun = False
            last = pb.GenerateResponse()
            try:
                for last in stub.Generate(request, timeout=120):
                    if not begun and last.HasField("delta"):
                        begun = True
                        self._begun.wait()
            finally:
                self._ended_at.append(time.monotonic())
            return last.finished

        self.results = [self._pool.submit(read) for _ in range(NUM_STREAMS)]
        self._begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._stub.__exit__(None, None, None)

    def last_end(self) -> float:
        """When the last stream ended, by the monotonic clock; waits for it."""
        for result in self.results:
            result.exception(timeout=120)
        return max(self._ended_at)


@pytest.mark.parametrize("which", ["device", "gateway"])
def test_sigterm_lets_eight_streams_finish_and_exits_zero(
    own_services: Services, which: str
) -> None:
    program = own_services.device if which == "device" else own_services.gateway
    with Streams(own_services, max_tokens=300) as streams:
        program.process.send_signal(signal.SIGTERM)
        finished = [result.result(timeout=120) for result in streams.results]
    assert [answer.usage.generated_tokens for answer in finished] == [300] * NUM_STREAMS
    assert all(answer.reason == pb.FINISH_REASON_LENGTH for answer in finished)
    assert program.process.wait(timeout=30) == 0, program.output()


def test_a_killed_device_is_told_to_every_client_within_two_seconds_and_served_again_when_back(
    own_services: Services, tmp_path: Path
) -> None:
    with Streams(own_services, max_tokens=1500) as streams:
        own_services.device.process.kill()
        killed_at = time.monotonic()
        waited = streams.last_end() - killed_at
        errors = [result.exception() for result in streams.results]
    assert waited < 2, f"the last client was told after {waited:.1f} s"
    for error in errors:
        assert isinstance(error, grpc.RpcError)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert own_services.device_address in error.details()

    back = start_program(
        "device service",
        "device_service",
        {
            "model": str(DEMO_MODEL),
            "listen": own_services.device_address,
            "metrics-listen": own_services.device_metrics,
            "threads": "1",
        },
        tmp_path / "device.log",
    )
    try:
        wait_serving(own_services.device_address, [back])
        wait_serving(own_services.gateway_address, [own_services.gateway], seconds=15)
        with gateway_stub(own_services) as stub:
            request = pb.GenerateRequest(
                text="Once upon a time,", limits=pb.Limits(max_tokens=8, ignore_eos=True)
            )
            *_, last = stub.Generate(request, timeout=30)
        assert last.finished.usage.generated_tokens == 8
    finally:
        assert stop_program(back) == 0, back.output()
