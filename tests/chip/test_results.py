"""Rows are kept part by part; those that failed, or are of other sources, are made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels import runtime

runtime.choose("sim")

from tests.chip import results, sources  # noqa: E402
from tests.kernels.case import all_cases  # noqa: E402

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


def complete(simulator: Simulator, of_c: str = "now") -> results.Rows:
    wanted = dict.fromkeys("ab", "always") | {"c": of_c}
    return results._complete("test", {"of": "versions"}, wanted, PARTS, simulator.run)


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


def test_only_rows_from_other_sources_are_made_anew() -> None:
    complete(Simulator(), "before")
    second = Simulator()
    assert list(complete(second)) == ["a", "b", "c"]
    assert second.asked == ["c"]


def test_a_row_depends_on_the_code_that_it_runs() -> None:
    steps, of_scenarios = results.step_sources(), results.scenario_sources()
    assert {"kernels/attention.py", "device_service/model/tt_decoder.py"} < set(steps)
    assert {"kernels/attention.py", "tests/checkpoints.py"} < set(of_scenarios)
    assert not {"kernels/lm_head.py", "gateway/serve.py"} & set(steps)
    cases = {case.kernel: case for case in all_cases()}
    linear, attention = (results.case_sources(cases[name]) for name in ("linear", "attention"))
    assert linear != attention


def test_comments_change_no_digest_and_imports_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    first, second = tmp_path / "first.py", tmp_path / "second.py"

    def digest() -> str:
        for kept in (sources._tree, sources._digest, sources._imports):
            kept.cache_clear()
        return sources.digest(["first.py"])

    first.write_text('"""One."""\nimport second\nX = 1\n"""Of X."""\n')
    second.write_text("def f(): return 1\n")
    before = digest()
    first.write_text('"""Another."""\nimport second  # why\nX = 1\n')
    assert digest() == before
    second.write_text("def f(): return 2\n")
    assert digest() != before
