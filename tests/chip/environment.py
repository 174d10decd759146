"""Where compiled kernels run: the second environment, a prepared simulator, or a mock card.

Knows .venv-tt (made by the Makefile), prepare.py and the mock cards; knows nothing of kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PYTHON = Path(os.environ.get("TESSERA_TT_PYTHON", ROOT / ".venv-tt/bin/python"))
CACHE = ROOT / ".cache/chip"
TTSIM = "https://github.com/tenstorrent/ttsim: ./make.py :build, then SIMULATOR=…/libttsim_bh.so"


def python() -> Path:
    """The 3.12 interpreter with TT-Lang; its absence skips the test and says how to get it."""
    if not PYTHON.exists():
        pytest.skip(f"no {PYTHON}: make test-chip or make test-kernels makes it (Python 3.12)")
    return PYTHON


def _clean() -> dict[str, str]:
    """This process's environment without what the functional simulator leaves in it."""
    env = {k: v for k, v in os.environ.items() if k not in ("TTLANG_SIM_ONLY", "PYTHONPATH")}
    return env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TT_METAL_LOGGER_LEVEL": "ERROR"}


def simulated(simulator: str) -> dict[str, str]:
    """The environment of a simulated chip: wolfpine, or a path of the vendor's library."""
    if simulator != "wolfpine" and not Path(simulator).is_file():
        pytest.fail(f"no simulator at {simulator}; the vendor's is at {TTSIM}", pytrace=False)
    out = CACHE / ("wolfpine" if simulator == "wolfpine" else "ttsim")
    done = subprocess.run(
        [python(), HERE / "prepare.py", "--out", out, "--simulator", simulator],
        capture_output=True,
        text=True,
        env=_clean(),
        check=False,
    )
    if done.returncode:
        pytest.fail(done.stderr.strip(), pytrace=False)
    lines = (out / "env.sh").read_text().splitlines()
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines)
    return _clean() | {name: value.strip("'") for name, value in pairs}


def mock(board: str) -> dict[str, str]:
    """The environment of a mock card that kernels are compiled for."""
    return _clean() | {
        "TT_METAL_MOCK_CLUSTER_DESC_PATH": str(HERE / f"{board}.yaml"),
        "TT_METAL_SLOW_DISPATCH_MODE": "1",
        "TTLANG_COMPILE_ONLY": "1",
    }


def rows(mode: str, names: Sequence[str], env: dict[str, str], folder: Path) -> dict[str, dict]:
    """Runs cases in subprocesses; one that dies costs its own case, the rest go on in a new one."""
    found: dict[str, dict] = {}
    out = folder / "rows.jsonl"
    while left := [name for name in names if name not in found]:
        done = subprocess.run(
            [python(), "-m", "tests.chip.run_cases", mode, out, *left],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = out.read_text().splitlines() if out.exists() else []
        found |= {row["name"]: row for row in map(json.loads, lines)}
        lost = next((name for name in left if name not in found), None)
        if lost:
            tail = (done.stderr or done.stdout).strip().splitlines()[-3:]
            found[lost] = {"name": lost, "error": f"exit {done.returncode}: {' / '.join(tail)}"}
    return found
