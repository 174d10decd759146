"""Both programs on this machine: what `make demo`, `make serve`, `make chat` and the tests start.

Knows the programs by their command lines only; the answers it shows come through `tessera`, the
command that a user types.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from deploy import chip
from deploy.programs import (
    ROOT,
    START_SECONDS,
    Program,
    ServiceError,
    start_program,
    stop_program,
    wait_serving,
)

__all__ = ["MODELS", "ROOT", "ServiceError", "Services", "free_address", "running_services"]

MODELS = {
    "demo": ROOT / "deploy" / "demo-model",
    "gemma3-270m": ROOT / ".cache" / "models" / "gemma3-270m",
}

SIMULATED_START_SECONDS = 7200.0
LOGS = ROOT / ".cache" / "local"

# What a person sees of the model: questions where it can chat, beginnings where it only completes.
QUESTIONS = (
    "What is the gateway?",
    "Which day comes after Friday?",
    "What is the capital of France?",
    "Tell me a story about a fox.",
)
BEGINNINGS = ("The capital of France is", "Once upon a time,")


@dataclass(frozen=True, slots=True)
class Services:
    """A device service and a gateway that serve."""

    device: Program
    gateway: Program
    device_address: str
    gateway_address: str
    device_metrics: str
    gateway_metrics: str


def free_address() -> str:
    """A loopback address whose port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def check_free(address: str) -> None:
    """Raises ServiceError when somebody listens at a loopback address already."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        if probe.connect_ex((host, int(port))) == 0:
            raise ServiceError(f"{address} is in use: does another `make serve` run?")


@contextlib.contextmanager
def running_services(
    model_dir: Path,
    *,
    device_flags: Mapping[str, str] | None = None,
    gateway_flags: Mapping[str, str] | None = None,
    log_dir: Path | None = None,
    device_python: Path | None = None,
    device_variables: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
) -> Iterator[Services]:
    """Starts both programs on free loopback ports, yields when they serve, stops them at the end.

    Flags are given without dashes, e.g. `{"precision": "float32"}`, and override the defaults.
    `device_python` and `device_variables` are for the device service only: see `start_program`.

    Raises:
        ServiceError: one of them did not come up.
    """
    with contextlib.ExitStack() as cleanup:
        if log_dir is None:
            log_dir = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tessera-")))
        device_flags = {
            "model": str(model_dir),
            "listen": free_address(),
            "metrics-listen": free_address(),
        } | dict(device_flags or {})
        gateway_flags = {
            "device": device_flags["listen"],
            "tokenizer": str(model_dir),
            "listen": free_address(),
            "metrics-listen": free_address(),
        } | dict(gateway_flags or {})
        device = start_program(
            "device service",
            "device_service",
            device_flags,
            log_dir / "device.log",
            python=device_python,
            variables=device_variables,
        )
        cleanup.callback(stop_program, device)
        gateway = start_program("gateway", "gateway", gateway_flags, log_dir / "gateway.log")
        # The gateway first: its streams end while the device still serves them.
        cleanup.callback(stop_program, gateway)
        wait_serving(gateway_flags["listen"], [device, gateway], start_seconds)
        yield Services(
            device,
            gateway,
            device_flags["listen"],
            gateway_flags["listen"],
            device_flags["metrics-listen"],
            gateway_flags["metrics-listen"],
        )


def tessera(address: str, *arguments: str) -> int:
    """Runs the `tessera` command against `address`, in the foreground. Returns its exit code."""
    command = [sys.executable, "-m", "gateway.cli", *arguments, "--server", address]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def demo(services: Services, can_chat: bool, is_slow: bool = False) -> int:
    """Shows what a user types and, streamed, what comes back; less where it is slow."""
    mode = ["--temperature", "0", *(["--chat"] if can_chat else ["--max-tokens", "32"])]
    prompts = QUESTIONS if can_chat else BEGINNINGS
    if is_slow:
        prompts = prompts[-1:] if not can_chat else prompts[1:2]
    for prompt in prompts:
        print(f'\n$ tessera generate {" ".join(mode)} "{prompt}"', flush=True)
        if code := tessera(services.gateway_address, "generate", *mode, prompt):
            services.device.check_running()  # a simulator that refuses an instruction ends it
            return code
    print("\nNow yourself: `make chat` to talk, `make serve` to keep both programs running.")
    return 0


def serve(services: Services) -> int:
    """Runs until Ctrl-C, or until one of the programs ends."""
    print(f"device service  {services.device_address}   metrics http://{services.device_metrics}")
    print(f"gateway         {services.gateway_address}   metrics http://{services.gateway_metrics}")
    print("In another terminal: .venv/bin/tessera chat    Ctrl-C here stops both.", flush=True)
    while True:
        for program in (services.device, services.gateway):
            program.check_running()
        time.sleep(0.5)


def resolve_model(name: str) -> Path:
    """The directory of a named model, or the one given.

    Raises:
        ServiceError: there is none; the message says what makes it.
    """
    model_dir = MODELS.get(name, Path(name))
    if not (model_dir / "config.json").is_file():
        hint = {"gemma3-270m": "run `make model-gemma3-270m` first"}.get(
            name, "name a checkpoint directory, or one of " + ", ".join(MODELS)
        )
        raise ServiceError(f"MODEL={name}: there is no {model_dir / 'config.json'}: {hint}")
    return model_dir.resolve()


def has_chat_template(model_dir: Path) -> bool:
    """Whether the model was made for chats."""
    config = model_dir / "tokenizer_config.json"
    return (model_dir / "chat_template.jinja").is_file() or (
        config.is_file() and re.search(r'"chat_template"\s*:', config.read_text()) is not None
    )


@dataclass(frozen=True, slots=True)
class Place:
    """What the device service runs on, as `start_program` and its flags want it."""

    flags: Mapping[str, str]
    python: Path | None = None
    variables: Mapping[str, str] | None = None
    start_seconds: float = START_SECONDS
    is_slow: bool = False
    """Whether it simulates: minutes an answer."""


def place_of(backend: str, simulator: str) -> Place:
    """Where a backend runs here.

    Raises:
        chip.ChipError: `tt` has neither a card nor a simulated chip.
    """
    flags = {"backend": backend}
    # A simulator computes what a slot could hold; and a stop need not wait for its step.
    small = flags | {"slots": "2", "context-length": "512", "drain-seconds": "0"}
    if backend == "sim":
        return Place(small, start_seconds=SIMULATED_START_SECONDS, is_slow=True)
    if backend != "tt":
        return Place(flags)
    variables = chip.environment(simulator)
    if chip.is_simulated(variables):
        return Place(small, chip.PYTHON, variables, SIMULATED_START_SECONDS, is_slow=True)
    return Place(flags, chip.PYTHON, variables)


def _on_terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("action", choices=("demo", "serve", "chat"))
    parser.add_argument("--model", default="demo", help="demo, gemma3-270m or a directory")
    parser.add_argument("--backend", default="torch", help="torch, sim or tt (default: torch)")
    parser.add_argument(
        "--simulator",
        default="",
        help="for tt: a simulated chip to prepare, wolfpine or the path of the vendor's library; "
        "without it, a card, or what TT_METAL_SIMULATOR names",
    )
    arguments = parser.parse_args()
    # SIGTERM ends like Ctrl-C does, and Ctrl-C works where a script's shell had it ignored.
    signal.signal(signal.SIGTERM, _on_terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    device_flags: dict[str, str] = {}
    gateway_flags: dict[str, str] = {}
    if arguments.action == "serve":
        device_flags |= {"listen": "127.0.0.1:50051", "metrics-listen": "127.0.0.1:9101"}
        gateway_flags |= {"listen": "127.0.0.1:50050", "metrics-listen": "127.0.0.1:9100"}
    try:
        model_dir = resolve_model(arguments.model)
        if arguments.action == "serve":
            for flags in (device_flags, gateway_flags):
                check_free(flags["listen"])
                check_free(flags["metrics-listen"])
        place = place_of(arguments.backend, arguments.simulator)
        print(f"==> Starting the device service and the gateway on {arguments.model}", flush=True)
        if place.is_slow:
            LOGS.mkdir(parents=True, exist_ok=True)
            (LOGS / "device.log").unlink(missing_ok=True)
            print(f"==> On a simulator this takes minutes; what it does: tail -f {LOGS}/device.log")
        start = time.monotonic()
        with running_services(
            model_dir,
            device_flags={**place.flags, **device_flags},
            gateway_flags=gateway_flags,
            log_dir=LOGS if place.is_slow else None,
            device_python=place.python,
            device_variables=place.variables,
            start_seconds=place.start_seconds,
        ) as services:
            print(f"==> Both serve after {time.monotonic() - start:.1f} s", flush=True)
            match arguments.action:
                case "demo":
                    return demo(services, has_chat_template(model_dir), place.is_slow)
                case "serve":
                    return serve(services)
                case _:
                    # Ctrl-C is the chat's: it stops an answer there, not the programs here.
                    signal.signal(signal.SIGINT, lambda *_: None)
                    return tessera(services.gateway_address, "chat")
    except (ServiceError, chip.ChipError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\n==> Stopped")
        return 0 if arguments.action != "demo" else 130


if __name__ == "__main__":
    sys.exit(main())
