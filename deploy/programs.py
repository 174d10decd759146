"""Programs that are started, watched and stopped here: by `deploy.local` and by tests.

Knows command lines, processes and grpc.health.v1; knows nothing of what the programs do.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 600.0
STOP_SECONDS = 40.0


class ServiceError(Exception):
    """A program did not start, or stopped by itself; the message ends with what it printed."""


@dataclass(frozen=True, slots=True)
class Program:
    """A running program with the file that its output goes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        """All it printed so far."""
        return self.log.read_text(errors="replace")

    def check_running(self) -> None:
        """Raises ServiceError when the program has ended."""
        if self.process.poll() is not None:
            raise ServiceError(
                f"the {self.name} ended with exit code {self.process.returncode}:\n"
                f"{self.output().strip()}"
            )


def start_program(
    name: str,
    module: str,
    flags: Mapping[str, str],
    log: Path,
    *,
    python: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Program:
    """Starts `python -m module --flag value …` in a session of its own, so that Ctrl-C is ours.

    Without `python`, this process's; `variables` come over this process's own.
    """
    command = [str(python or sys.executable), "-m", module]
    for flag, value in flags.items():
        command += [f"--{flag}", value]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Program(name, process, log)


def stop_program(program: Program, seconds: float = STOP_SECONDS) -> int:
    """SIGTERM, then SIGKILL after `seconds`. Returns the exit code."""
    program.process.terminate()
    try:
        return program.process.wait(seconds)
    except subprocess.TimeoutExpired:
        program.process.kill()
        return program.process.wait()


def wait_serving(address: str, programs: Sequence[Program], seconds: float = START_SECONDS) -> None:
    """Waits until grpc.health.v1 at `address` says SERVING.

    Raises:
        ServiceError: one of the programs ended, or the time ran out.
    """
    deadline = time.monotonic() + seconds
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline:
            with contextlib.suppress(grpc.RpcError):
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=2)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            for program in programs:
                program.check_running()
            time.sleep(0.05)
    printed = "\n".join(program.output().strip() for program in programs)
    raise ServiceError(f"{address} was not ready after {seconds:.0f} s:\n{printed}")
