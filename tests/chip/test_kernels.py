"""Every kernel as compiled, executed on a simulated chip, against torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernels import runtime

runtime.choose("sim")  # this process only reads the table; the chip is in a process of its own

from tests.chip import environment  # noqa: E402
from tests.kernels.case import Case, all_cases  # noqa: E402

pytestmark = pytest.mark.chip
SIMULATOR = os.environ.get("TESSERA_SIMULATOR", "wolfpine")
NAME = "wolfpine" if SIMULATOR == "wolfpine" else "ttsim"
SIZES = ("small",) if NAME == "wolfpine" else ("small", "full")
CASES = [case for case in all_cases() if case.size in SIZES]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    names = [case.name for case in CASES if NAME not in case.refused]
    env = environment.simulated(SIMULATOR)
    return environment.rows("run", names, env, Path(tmp_path_factory.mktemp("chip")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_compiled_kernel_agrees_with_torch(case: Case, found: dict[str, dict]) -> None:
    if NAME in case.refused:
        pytest.skip(f"{NAME} refuses: {case.refused[NAME]}")
    row = found[case.name]
    assert "error" not in row, row["error"]
    assert row["roundings"] <= case.roundings
