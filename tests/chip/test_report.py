"""The kernels' page keeps what no run here replaces, and says of which lines that is so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernels import runtime

runtime.choose("sim")

from tests.chip import report, results  # noqa: E402
from tests.kernels.case import Case, all_cases  # noqa: E402

CASES = [case for case in all_cases() if case.kernel == "copy"][:3]
ABOUT = {"tt-lang": "1", "ttnn": "2", "simulator": "a chip", "sha256": "ab"}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "CACHE", tmp_path)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "OUT", tmp_path / "page.md")
    monkeypatch.setattr(report, "all_cases", lambda: CASES)
    monkeypatch.setattr(report, "traffic", lambda _: {})
    monkeypatch.setattr(report.report_steps, "write", lambda: None)
    return tmp_path / "page.md"


def write(rows: dict[str, dict]) -> None:
    kept = {"about": ABOUT, "rows": rows}
    (results.CACHE / "rows-ttsim.json").write_text(json.dumps(kept))
    report.main()


def row(case: Case, roundings: float, sources: str | None = None) -> dict:
    sources = results.case_sources(case) if sources is None else sources
    return {"name": case.name, "roundings": roundings, "seconds": 1.0, "sources": sources}


def lines(page: Path) -> list[str]:
    """The cells of each case's error."""
    found = [x.split(" | ")[4] for x in page.read_text().splitlines() if x.startswith("| copy ")]
    return sorted(found)


def test_a_case_without_a_row_here_keeps_its_line_marked(page: Path) -> None:
    first, second, third = CASES
    write({first.name: row(first, 0.25), second.name: row(second, 0.5, "old")})
    assert lines(page) == ["0.25", "0.50*", "not run: None"]
    assert "2 cases of 1 kernels ran" in page.read_text()
    assert "Marked *: 1 lines" in page.read_text()
    write({third.name: row(third, 0.75)})
    assert lines(page) == ["0.25*", "0.50*", "0.75"]
    assert "Marked *: 2 lines" in page.read_text()


def test_a_row_that_failed_does_not_hide_an_earlier_one(page: Path) -> None:
    first = CASES[0]
    write({first.name: row(first, 0.25)})
    write({first.name: {"name": first.name, "error": "no end after 300 s"}})
    assert lines(page)[0] == "0.25*"
