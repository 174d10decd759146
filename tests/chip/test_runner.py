"""The runner with a stand-in for run_cases.py: what a death, a hang and a broken start cost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.chip import runner

CASES = """
import json, os, sys, time
out = open(sys.argv[3], "a")
def write(row):
    out.write(json.dumps(row) + "\\n"); out.flush()
if sys.argv[4] == "broken":
    sys.exit("no device here")
for name in sys.argv[4:]:
    write({"name": name, "begun": True})
    if "dies" in name:
        print("unknown instruction", flush=True); os.abort()
    if "hangs" in name:
        time.sleep(600)
    write({"name": name, "roundings": 1.0})
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that runs the stand-in, whatever module it is told to run."""
    (tmp_path / "cases.py").write_text(CASES)
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nshift 1\nexec {sys.executable} {tmp_path}/cases.py "$@"\n')
    path.chmod(0o755)
    return path


def rows(python: Path, folder: Path, *names: str) -> dict[str, dict]:
    return runner.rows(python, "run", names, {}, folder, case_seconds=1.0)


def test_every_case_has_its_row(python: Path, tmp_path: Path) -> None:
    found = rows(python, tmp_path, "a", "b", "c")
    assert {name: row["roundings"] for name, row in found.items()} == dict.fromkeys("abc", 1.0)


def test_a_death_costs_its_own_case(python: Path, tmp_path: Path) -> None:
    found = rows(python, tmp_path, "a", "b", "dies", "c", "d")
    assert found.pop("dies")["error"] == "SIGABRT: unknown instruction"
    assert all("error" not in row for row in found.values())
    assert len(found) == 4


def test_a_hang_costs_its_own_case(python: Path, tmp_path: Path) -> None:
    found = rows(python, tmp_path, "hangs", "a", "b")
    assert found["hangs"]["error"].startswith("no end after 1 s")
    assert found["a"]["roundings"] == found["b"]["roundings"] == 1.0


def test_a_start_that_fails_after_a_death_costs_no_row_that_was_found(
    python: Path, tmp_path: Path
) -> None:
    found = rows(python, tmp_path, "a", "b", "dies", "c", "broken", "e", "d")
    assert all("error" not in found[name] for name in "abce")
    assert found["dies"]["error"].startswith("SIGABRT")
    for name in ("broken", "d"):
        assert found[name]["error"].startswith("not begun: exit 1: no device here")


def test_a_start_that_fails_ends_the_run_with_its_reason(python: Path, tmp_path: Path) -> None:
    with pytest.raises(runner.RunnerError, match="no device here"):
        rows(python, tmp_path, "broken")
