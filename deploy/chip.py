"""What `--backend tt` runs on here: a card, or a simulated chip that this prepares.

    python -m deploy.chip [SIMULATOR]     # says in one line what is missing

Knows .venv-tt, tests/chip/prepare.py and the variables that ttnn reads; knows nothing of models.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-tt" / "bin" / "python"
CACHE = ROOT / ".cache" / "chip"
PREPARE = ROOT / "tests" / "chip" / "prepare.py"
CARDS = Path("/dev/tenstorrent")
WOLFPINE = "wolfpine"
COMPILER = "riscv64-unknown-elf-g++"
PICOLIBC = Path("/usr/lib/picolibc/riscv64-unknown-elf")
DEBIAN = "gcc-riscv64-unknown-elf binutils-riscv64-unknown-elf picolibc-riscv64-unknown-elf"
TTSIM = "https://github.com/tenstorrent/ttsim (./make.py :build), then SIMULATOR=…/libttsim_bh.so"


class ChipError(Exception):
    """There is nothing to run on; one line with what to do."""


def name_of(simulator: str) -> str:
    """One of "wolfpine", "ttsim" (the vendor's Blackhole) and "wormhole" (the vendor's other)."""
    if simulator == WOLFPINE:
        return WOLFPINE
    path = Path(simulator)
    return "wormhole" if "_wh" in path.name or path.parent.name.endswith("_wh") else "ttsim"


def check(simulator: str) -> None:
    """Raises ChipError, with what to do, where `environment` could not but fail."""
    if simulator:
        if simulator != WOLFPINE and not Path(simulator).is_file():
            raise ChipError(f"no simulator at {simulator}; the vendor's: {TTSIM}")
        if shutil.which(COMPILER) is None or not PICOLIBC.is_dir():
            raise ChipError(f"no cross compiler: apt-get install {DEBIAN} (Debian 12)")
        return
    named = os.environ.get("TT_METAL_SIMULATOR")
    if named and not Path(named).exists():
        raise ChipError(f"TT_METAL_SIMULATOR={named}: there is nothing")
    if not named and not any(CARDS.glob("[0-9]*")):
        raise ChipError(
            f"backend tt wants a card, and there is none in {CARDS}; for a simulated chip say "
            f"SIMULATOR={WOLFPINE} (slow), or build {TTSIM}"
        )


def has_device(simulator: str) -> bool:
    """Whether a card is there, or a simulated chip is named: then what lacks is an error."""
    return bool(simulator or os.environ.get("TT_METAL_SIMULATOR")) or any(CARDS.glob("[0-9]*"))


def environment(simulator: str, python: Path = PYTHON) -> dict[str, str]:
    """The variables that a device service on `tt` needs besides this process's own.

    A simulated chip is prepared for it under .cache/chip; some seconds, once.

    Args:
        simulator: "wolfpine", or the path of a library of the vendor's; empty for a card, or for
            what TT_METAL_SIMULATOR names.
        python: the 3.12 interpreter that ttnn is installed for.

    Raises:
        ChipError: there is nothing to run on, or it cannot be prepared.
    """
    check(simulator)
    if not python.exists():
        raise ChipError(f"no {python}: make demo BACKEND=tt or make test-chip makes it")
    if not simulator:
        return {}
    out = CACHE / name_of(simulator)
    done = subprocess.run(
        [python, PREPARE, "--out", out, "--simulator", simulator],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        check=False,
    )
    if done.returncode:
        raise ChipError(done.stderr.strip() or f"{PREPARE} failed")
    lines = (out / "env.sh").read_text().splitlines()
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines)
    logs = {"TT_METAL_LOGS_PATH": str(out)}  # else a folder "generated" where the program runs
    return {name: value.strip("'") for name, value in pairs} | logs


def is_simulated(variables: Mapping[str, str]) -> bool:
    """Whether these variables, over this process's own, name a simulated chip."""
    return bool((os.environ | variables).get("TT_METAL_SIMULATOR"))


def main() -> int:
    """The command line; returns the exit code."""
    try:
        check(sys.argv[1] if len(sys.argv) > 1 else "")
    except ChipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
