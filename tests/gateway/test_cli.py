from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.local import ROOT, free_address
from tests.gateway.harness import PATIENCE_SECONDS, Running, eventually, running_gateway


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Running]:
    async with running_gateway() as running:
        yield running


def environment(server: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": "protos:.", "TESSERA_SERVER": server, "TERM": "dumb"}


async def tessera(
    server: str, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
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


async def test_generate_writes_the_answer_and_json_lines_tell_the_same(gateway: Running) -> None:
    plain = await tessera(gateway.address, "generate", "hello fox", *OPTIONS, "--stats")
    assert plain.returncode == 0, plain.stderr
    assert "8 generated in" in plain.stderr
    lines = await tessera(gateway.address, "generate", "-", *OPTIONS, "--json", stdin="hello fox")
    events = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [event["event"] for event in events][:1] == ["started"]
    assert events[-1]["event"] == "finished"
    assert events[-1]["reason"] == "length"
    text = "".join(event["text"] for event in events if event["event"] == "delta")
    assert plain.stdout.rstrip("\n") == text.rstrip("\n")


async def test_generate_sends_a_chat_where_it_is_told_to(gateway: Running) -> None:
    gateway.device.commands.clear()
    result = await tessera(gateway.address, "generate", "--chat", "hello", *OPTIONS, "--echo")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("user\nhello\nmodel\n")


async def test_models_and_tokenize(gateway: Running) -> None:
    assert "fake-model" in (await tessera(gateway.address, "models")).stdout
    model = json.loads((await tessera(gateway.address, "models", "--json")).stdout)
    assert model["name"] == "fake-model"
    assert model["default_sampling"]["top_k"] == 64
    ids = (await tessera(gateway.address, "tokenize", "--bos", "hello")).stdout.split()
    assert ids[0] == "2"
    as_json = json.loads((await tessera(gateway.address, "tokenize", "--json", "hello")).stdout)
    assert as_json["token_ids"] == [int(i) for i in ids[1:]]


async def test_the_server_may_be_named_before_the_command_or_after_it(gateway: Running) -> None:
    for arguments in (
        ("--server", gateway.address, "models"),
        ("models", "--server", gateway.address),
        ("--server", "127.0.0.1:1", "models", "--server", gateway.address),
    ):
        assert "fake-model" in (await tessera("127.0.0.1:1", *arguments)).stdout


async def test_a_refusal_is_one_line_and_exit_code_1(gateway: Running) -> None:
    result = await tessera(gateway.address, "generate", "hello", "--top-p", "7")
    assert result.returncode == 1
    assert result.stderr == "error: sampling.top_p: must be above 0, up to 1, not 7\n"


@pytest.mark.parametrize("command", [("generate", "x"), ("chat",), ("models",), ("tokenize", "x")])
async def test_nobody_there_is_one_line_and_exit_code_3(command: tuple[str, ...]) -> None:
    address = free_address()
    result = await tessera(address, *command)
    assert result.returncode == 3
    assert result.stderr.startswith(f"error: no gateway answers at {address}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sing",),
        ("generate", "x", "--loud"),
        ("generate", "two", "words"),
        ("generate", "x", "--top-k", "many"),
        ("generate", "x", "--seed", "-1"),
        ("generate", "x", "--max-tokens", str(2**32)),
        ("generate", os.fsdecode(b"\xff")),
        ("models", "--server", "nowhere"),
    ],
)
async def test_bad_usage_is_one_line_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = await tessera("127.0.0.1:1", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


# Makes the terminal the one whose Ctrl-C reaches the command. (Done between fork and exec, it would
# run Python in a copy of a process with gRPC's threads.)
_ON_OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "gateway.cli", *sys.argv[1:]])
"""


class Terminal:
    """`tessera` on a pseudo-terminal, as a person uses it."""

    def __init__(self, server: str, *arguments: str) -> None:
        self._terminal, side_of_command = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_OWN_TERMINAL, *arguments],
            cwd=ROOT,
            env=environment(server),
            stdin=side_of_command,
            stdout=side_of_command,
            stderr=side_of_command,
            start_new_session=True,
        )
        os.close(side_of_command)
        os.set_blocking(self._terminal, False)
        self._shown = ""

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    async def wait_for(self, text: str) -> None:
        """Reads until the text is shown, and forgets what came up to it."""

        async def shown() -> bool:
            with contextlib.suppress(BlockingIOError):
                self._shown += os.read(self._terminal, 65536).decode(errors="replace")
            return text in self._shown

        await eventually(shown)
        self._shown = self._shown.partition(text)[2]

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.process.wait, PATIENCE_SECONDS)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)


@pytest_asyncio.fixture
async def chat(gateway: Running) -> AsyncIterator[Terminal]:
    gateway.device.delay_seconds = 0.01
    terminal = Terminal(gateway.address, "chat", "--ignore-eos")
    await terminal.wait_for("> ")
    yield terminal
    terminal.close()


async def test_ctrl_c_stops_the_answer_and_not_the_chat(gateway: Running, chat: Terminal) -> None:
    async def some_tokens() -> bool:
        sequences = list(gateway.device.open_sequences.values())
        return bool(sequences) and gateway.device.commands[-1].advance.position > 100

    for question in ("hello", "hello again"):
        chat.type(f"{question}\r")
        await eventually(some_tokens)
        chat.type("\x03")
        await chat.wait_for("[stopped]")
        await chat.wait_for("> ")
        await gateway.device_is_idle()
    first, second = (
        list(command.open.token_ids)
        for command in gateway.device.commands
        if command.WhichOneof("action") == "open"
    )
    assert len(second) > len(first) + 50, "what was shown of the first answer is kept"
    chat.type("\x04")
    assert await chat.exit_code() == 0


async def test_ctrl_c_gives_up_a_line_and_leaves_at_an_empty_one(chat: Terminal) -> None:
    chat.type("half a quest")
    await chat.wait_for("half a quest")
    chat.type("\x03")
    await chat.wait_for("> ")
    chat.type("\x03")
    assert await chat.exit_code() == 0
