from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from deploy.local import ROOT, free_address
from tests.gateway.harness import PATIENCE_SECONDS
from tests.gateway.test_client import GatewayThread


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayThread]:
    with GatewayThread() as running:
        yield running


def environment(server: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": "protos:.", "TESSERA_SERVER": server, "TERM": "dumb"}


def tessera(
    server: str, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        cwd=ROOT,
        env=environment(server),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


OPTIONS = ("--max-tokens", "8", "--seed", "3", "--ignore-eos")


def test_generate_writes_the_answer_and_json_lines_tell_the_same(gateway: GatewayThread) -> None:
    plain = tessera(gateway.address, "generate", "hello fox", *OPTIONS, "--stats")
    assert plain.returncode == 0, plain.stderr
    assert "8 generated in" in plain.stderr
    lines = tessera(gateway.address, "generate", "-", *OPTIONS, "--json", stdin="hello fox")
    events = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [event["event"] for event in events][:1] == ["started"]
    assert events[-1]["event"] == "finished"
    assert events[-1]["reason"] == "length"
    text = "".join(event["text"] for event in events if event["event"] == "delta")
    assert plain.stdout.rstrip("\n") == text.rstrip("\n")


def test_generate_sends_a_chat_where_it_is_told_to(gateway: GatewayThread) -> None:
    gateway.device.commands.clear()
    result = tessera(gateway.address, "generate", "--chat", "hello", *OPTIONS, "--echo")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("user\nhello\nmodel\n")


def test_models_and_tokenize(gateway: GatewayThread) -> None:
    assert "fake-model" in tessera(gateway.address, "models").stdout
    model = json.loads(tessera(gateway.address, "models", "--json").stdout)
    assert model["name"] == "fake-model"
    assert model["default_sampling"]["top_k"] == 64
    ids = tessera(gateway.address, "tokenize", "--bos", "hello").stdout.split()
    assert ids[0] == "2"
    as_json = json.loads(tessera(gateway.address, "tokenize", "--json", "hello").stdout)
    assert as_json["token_ids"] == [int(i) for i in ids[1:]]


def test_a_refusal_is_one_line_and_exit_code_1(gateway: GatewayThread) -> None:
    result = tessera(gateway.address, "generate", "hello", "--top-p", "7")
    assert result.returncode == 1
    assert result.stderr == "error: sampling.top_p: must be above 0, up to 1, not 7\n"


@pytest.mark.parametrize("command", [("generate", "x"), ("chat",), ("models",), ("tokenize", "x")])
def test_nobody_there_is_one_line_and_exit_code_3(command: tuple[str, ...]) -> None:
    address = free_address()
    result = tessera(address, *command)
    assert result.returncode == 3
    assert result.stderr.startswith(f"error: no gateway answers at {address}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [(), ("sing",), ("generate", "x", "--loud"), ("generate", "x", "--top-k", "many")],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = tessera("127.0.0.1:1", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


class Terminal:
    """`tessera` on a pseudo-terminal, as a person uses it."""

    def __init__(self, server: str, *arguments: str) -> None:
        pid, self._terminal = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            command = [sys.executable, "-m", "gateway.cli", *arguments]
            os.execve(sys.executable, command, environment(server))
        self._pid = pid
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def wait_for(self, text: str) -> None:
        """Reads until the text is shown, and forgets what came up to it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} never came; got {self.shown!r}"
            readable, _, _ = select.select([self._terminal], [], [], 0.1)
            if readable:
                self.shown += os.read(self._terminal, 4096).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]

    def exit_code(self) -> int:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        raise AssertionError("the command does not end")

    def close(self) -> None:
        os.close(self._terminal)


@pytest.fixture
def chat(gateway: GatewayThread) -> Iterator[Terminal]:
    gateway.device.delay_seconds = 0.01
    terminal = Terminal(gateway.address, "chat", "--ignore-eos")
    terminal.wait_for("> ")
    yield terminal
    terminal.close()
    gateway.device.delay_seconds = 0.0


def test_ctrl_c_stops_the_answer_and_not_the_chat(gateway: GatewayThread, chat: Terminal) -> None:
    for turn in range(2):
        chat.type(f"hello {turn}\r")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not gateway.device.open_sequences and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        chat.type("\x03")
        chat.wait_for("[stopped]")
        chat.wait_for("> ")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while gateway.device.open_sequences and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not gateway.device.open_sequences
    openings = [c.open for c in gateway.device.commands if c.WhichOneof("action") == "open"]
    assert len(openings[-1].token_ids) > len(openings[-2].token_ids), "the first turn is kept"
    chat.type("\x04")
    assert chat.exit_code() == 0


def test_ctrl_c_gives_up_a_line_and_leaves_at_an_empty_one(chat: Terminal) -> None:
    chat.type("half a quest")
    chat.wait_for("half a quest")
    chat.type("\x03")
    chat.wait_for("> ")
    chat.type("\x03")
    assert chat.exit_code() == 0
