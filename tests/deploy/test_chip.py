"""What is said before minutes are spent on a chip that is not there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import chip
from deploy.local import place_of


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No card, no simulated chip; the cross compiler is there."""
    monkeypatch.setattr(chip, "CARDS", tmp_path / "dev")
    monkeypatch.setattr(chip, "PICOLIBC", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("TT_METAL_SIMULATOR", raising=False)


def refusal(simulator: str) -> str:
    with pytest.raises(chip.ChipError) as refused:
        chip.environment(simulator)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_neither_a_card_nor_a_simulated_chip() -> None:
    assert refusal("").startswith("backend tt wants a card, and there is none in ")
    assert "SIMULATOR=wolfpine" in refusal("")


def test_a_simulator_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/lib.so").startswith(f"no simulator at {tmp_path}/lib.so")
    monkeypatch.setenv("TT_METAL_SIMULATOR", f"{tmp_path}/lib.so")
    assert refusal("") == f"TT_METAL_SIMULATOR={tmp_path}/lib.so: there is nothing"


def test_a_simulated_chip_without_the_cross_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert refusal("wolfpine").startswith("no cross compiler: apt-get install gcc-riscv64-")


def test_no_second_environment(tmp_path: Path) -> None:
    with pytest.raises(chip.ChipError, match="make demo BACKEND=tt or make test-chip makes it"):
        chip.environment("wolfpine", tmp_path / "python")


def test_a_preparation_that_fails_says_why(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'prepare: no ttnn in this Python' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(chip.ChipError, match=r"^prepare: no ttnn in this Python$"):
        chip.environment("wolfpine", python)


def test_a_card_needs_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/0").touch()
    assert chip.environment("", Path(sys.executable)) == {}


@pytest.mark.parametrize(
    ("simulator", "name"),
    [
        ("wolfpine", "wolfpine"),
        ("/x/libttsim_bh.so", "ttsim"),
        ("/x/_out/release_bh/libttsim.so", "ttsim"),
        ("/x/libttsim_wh.so", "wormhole"),
        ("/x/_out/release_wh/libttsim.so", "wormhole"),
    ],
)
def test_a_simulated_chip_is_known_by_its_path(simulator: str, name: str) -> None:
    assert chip.name_of(simulator) == name


def test_a_simulator_gets_few_slots_and_time_a_card_what_it_can() -> None:
    assert place_of("torch", "").flags == {"backend": "torch"}
    simulated = place_of("sim", "")
    assert simulated.is_slow
    assert simulated.flags["slots"] == "2"
    with pytest.raises(chip.ChipError):
        place_of("tt", "")


def test_the_makefiles_question_is_answered_without_any_package() -> None:
    """By a bare interpreter: no environment has been made yet."""
    command = [sys.executable, "-S", "-m", "deploy.chip", "/nowhere/lib.so"]
    done = subprocess.run(command, cwd=chip.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no simulator at /nowhere/lib.so")
