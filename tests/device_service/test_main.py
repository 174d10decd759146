"""The program itself, as an operator runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from device_service.__main__ import load_model
from device_service.model.tt_backend import TtModel
from device_service.settings import load_settings
from tessera.device.v1 import device_pb2 as pb
from tessera.device.v1 import device_pb2_grpc
from tests.processes import DEMO_MODEL

ROOT = Path(__file__).resolve().parents[2]
ENV = {
    **{name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")},
    "PYTHONPATH": f"{ROOT / 'protos'}{os.pathsep}{ROOT}",
}
SMALL = ("--threads", "1", "--slots", "2", "--precision", "float32", "--metrics-listen", "off")


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "device_service", *flags],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def program(log: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A serving program and its address."""
    command = [sys.executable, "-m", "device_service", "--model", str(DEMO_MODEL), *SMALL]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", *flags], env=ENV, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"SERVING at (\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


def requests(*commands: pb.Command) -> Iterator[pb.DecodeRequest]:
    """The commands at once; then the stream stays open."""
    yield pb.DecodeRequest(commands=commands)
    time.sleep(60)


OPEN = pb.Command(sequence=1, open=pb.Open(token_ids=[2, 5, 6]))


def test_help_and_mistakes_are_told_at_once_without_torch() -> None:
    code = (
        "import sys; from device_service.__main__ import main; sys.argv[1:] = ['--slots', '0']\n"
        "code = main(); assert code == 2, code\n"
        "assert not {'torch', 'grpc'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert run("--help").returncode == 0


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--model", "/nowhere"), 2, "--model"),
        (("--model", str(DEMO_MODEL), "--slots", "0"), 2, "--slots"),
        (("--model", str(DEMO_MODEL), "--backend", "abacus"), 2, "--backend"),
        (("--model", str(DEMO_MODEL), "--colour", "blue"), 2, "--colour"),
        (("--model", str(DEMO_MODEL), "--backend", "sim", "--max-rows", "33"), 2, "--max-rows"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(
    flags: tuple[str, ...], code: int, says: str
) -> None:
    done = run(*flags)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_a_broken_checkpoint_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    done = run("--model", str(tmp_path), *SMALL, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: --model {tmp_path}: ")
    assert "gpt2" in line


def test_a_hang_that_holds_pythons_lock_still_ends_the_program(tmp_path: Path) -> None:
    """A native call may: then no line of Python runs any more, the event loop's neither."""
    code = (
        "import ctypes, sys; from device_service import __main__, step_watch\n"
        "from tests.fakes.model import FakeModel\n"
        "step_watch.GRACE_SECONDS = 0.5\n"
        "class Hangs(FakeModel):\n"
        "    def step(self, batch):\n"
        "        if batch.spans[0].token_ids[0] == 9: ctypes.PyDLL(None).sleep(600)\n"
        "        return super().step(batch)\n"
        "__main__.load_model = lambda settings, report: Hangs()\n"
        "sys.exit(__main__.main())"
    )
    flags = ("--model", str(DEMO_MODEL), *SMALL, "--listen", "127.0.0.1:0", "--step-timeout", "1")
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *flags], env=ENV, stdout=out, stderr=out
        )
    try:
        while not (found := re.search(r"SERVING at (\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        with grpc.insecure_channel(found[1]) as channel:
            hang = pb.Command(sequence=1, open=pb.Open(token_ids=[9]))
            call = device_pb2_grpc.DeviceServiceStub(channel).Decode(requests(hang), timeout=60)
            with pytest.raises(grpc.RpcError) as end:
                next(call)
            assert end.value.code() == grpc.StatusCode.UNAVAILABLE
        assert process.wait(20) == 1
    finally:
        process.kill()
        process.wait()
    assert "Timeout" in log.read_text()
    assert "in step" in log.read_text()  # all threads' tracebacks


@pytest.mark.parametrize(
    ("backend", "rows", "wanted"),
    [("torch", (), 128), ("sim", (), 32), ("sim", ("--max-rows", "7"), 7)],
)
def test_a_step_has_as_many_rows_as_its_backend_can(
    backend: str, rows: tuple[str, ...], wanted: int
) -> None:
    flags = ("--model", str(DEMO_MODEL), "--backend", backend)
    assert load_settings([*flags, *rows]).row_limit == wanted


def test_ttnns_inspector_leaves_the_port_to_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}
    monkeypatch.setenv("TT_METAL_INSPECTOR_RPC", "to be put back")
    monkeypatch.delenv("TT_METAL_INSPECTOR_RPC")
    monkeypatch.setattr(TtModel, "load", lambda *_, **__: seen.update(os.environ))
    load_model(load_settings(["--model", str(DEMO_MODEL), "--backend", "sim"]), print)
    assert seen["TT_METAL_INSPECTOR_RPC"] == "0"


@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="TT-Lang may be here")
def test_a_wrong_python_is_one_line_before_anything_is_read() -> None:
    done = run("--model", str(DEMO_MODEL), "--backend", "tt")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --backend tt: Python: this is 3.")
    assert line.endswith("more: python -m device_service doctor)")


def test_the_doctor_is_a_command() -> None:
    done = run("doctor")
    assert done.returncode in (0, 1)
    assert "variables" in done.stdout
    assert "serve" in done.stdout.splitlines()[-1]


def test_a_taken_port_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with program(tmp_path / "log") as (_, address):
        done = run("--model", str(DEMO_MODEL), *SMALL, "--listen", address)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: --listen {address}: cannot listen there: Address already in use"
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_live_streams_and_exits_zero(tmp_path: Path, number: int) -> None:
    log = tmp_path / "log"
    with (
        program(log, "--drain-seconds", "1") as (process, address),
        grpc.insecure_channel(address) as channel,
    ):
        call = device_pb2_grpc.DeviceServiceStub(channel).Decode(requests(OPEN), timeout=60)
        assert next(call).readouts.sequences
        process.send_signal(number)
        (failed,) = next(call).failed
        assert failed.closed
        with pytest.raises(grpc.RpcError) as end:
            next(call)
        assert end.value.code() == grpc.StatusCode.UNAVAILABLE
        assert process.wait(20) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with (
        program(tmp_path / "log", "--drain-seconds", "600") as (process, address),
        grpc.insecure_channel(address) as channel,
    ):
        call = device_pb2_grpc.DeviceServiceStub(channel).Decode(requests(OPEN), timeout=60)
        assert next(call).readouts.sequences
        process.terminate()
        while "draining" not in (tmp_path / "log").read_text():
            time.sleep(0.02)
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
        call.cancel()
