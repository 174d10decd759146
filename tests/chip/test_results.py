"""Rows are kept part by part; those that failed, or are of other sources, are made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chip import results

PARTS = (["a", "b"], ["c"])


class Simulator:
    """Answers, or ends the whole run at a name."""

    def __init__(self, fails: str = "", ends_at: str = "") -> None:
        self.asked: list[str] = []
        self._fails, self._ends_at = fails, ends_at

    def run(self, names: list[str], folder: Path) -> results.Rows:
        assert folder.is_dir()
        if self._ends_at in names:
            raise KeyboardInterrupt
        self.asked += names
        return {n: {"name": n} | ({"error": "died"} if n == self._fails else {}) for n in names}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "CACHE", tmp_path)


def complete(simulator: Simulator, sources: str = "now") -> results.Rows:
    return results._complete("test", {"sources": sources}, PARTS, simulator.run)


def test_a_run_that_was_ended_goes_on_where_it_was() -> None:
    with pytest.raises(KeyboardInterrupt):
        complete(Simulator(ends_at="c"))
    second = Simulator()
    assert list(complete(second)) == ["a", "b", "c"]
    assert second.asked == ["c"]


def test_rows_with_errors_are_made_anew_and_others_kept() -> None:
    assert "error" in complete(Simulator(fails="b"))["b"]
    second = Simulator()
    assert "error" not in complete(second)["b"]
    assert second.asked == ["b"]


def test_rows_from_other_sources_are_made_anew() -> None:
    complete(Simulator(), "before")
    second = Simulator()
    complete(second)
    assert second.asked == ["a", "b", "c"]


def test_what_a_digest_leaves_out_does_not_change_it() -> None:
    steps, scenarios = results.step_sources(), results.scenario_sources()
    assert set(scenarios) - set(steps) == set(results.SCENARIOS)
    assert steps.items() <= scenarios.items()
    assert {"kernels/attention.py", "tests/chip/prepare.py"} < set(steps)
    assert not any("__pycache__" in name for name in scenarios)
