"""Where compiled kernels run: the second environment, a prepared simulator, or a mock card.

Knows .venv-tt (made by the Makefile), prepare.py and the mock cards; knows nothing of kernels.
Whatever is missing is said in one line, with what to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy import chip
from deploy.chip import CACHE, WOLFPINE, name_of
from tests.chip import runner

__all__ = [
    "CACHE",
    "ROOT",
    "SIMULATOR",
    "WOLFPINE",
    "mock",
    "name_of",
    "python",
    "rows",
    "simulated",
]

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PYTHON = Path(os.environ.get("TESSERA_TT_PYTHON", ROOT / ".venv-tt/bin/python"))
SIMULATOR = os.environ.get("TESSERA_SIMULATOR") or WOLFPINE
"""What make test-chip runs on: wolfpine, or the path of the vendor's library."""


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
    """The environment of a simulated chip: wolfpine, or the path of a library of the vendor's."""
    try:
        return _clean() | chip.environment(simulator, python())
    except chip.ChipError as error:
        pytest.fail(str(error), pytrace=False)


def mock(board: str, *, compile_only: bool = True) -> dict[str, str]:
    """The environment of a mock card: to compile kernels for, or to enqueue them on for nothing."""
    env = {
        "TT_METAL_MOCK_CLUSTER_DESC_PATH": str(HERE / f"{board}.yaml"),
        "TT_METAL_SLOW_DISPATCH_MODE": "1",
    }
    return _clean() | env | ({"TTLANG_COMPILE_ONLY": "1"} if compile_only else {})


def rows(mode: str, names: Sequence[str], env: dict[str, str], folder: Path) -> dict[str, dict]:
    """Runs ("run") or compiles ("compile") cases, one row each; see tests.chip.runner."""
    try:
        return runner.rows(python(), mode, names, env, folder)
    except runner.RunnerError as error:
        pytest.fail(f"no case could begin: {error}", pytrace=False)


def step_rows(
    names: Sequence[str], simulator: str, folder: Path, seconds: float
) -> dict[str, dict]:
    """Runs whole steps of small checkpoints, one row each; see tests.chip.steps.

    In one process: scenarios of one decoder follow one another and compile its programs once.
    """
    env = simulated(simulator)
    env["TT_METAL_CACHE"] += "-steps"
    program = "tests.chip.steps.run_steps"
    try:
        return runner.rows(python(), "run", names, env, folder, seconds, program, processes=1)
    except runner.RunnerError as error:
        pytest.fail(f"no steps could begin: {error}", pytrace=False)
