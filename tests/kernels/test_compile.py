"""Every kernel at every size through the real compiler, for each board that its grid fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chip import environment
from tests.kernels.case import Case, all_cases

pytestmark = pytest.mark.kernels
BOARDS = ("p150", "n150")
CASES = all_cases()


@pytest.fixture(scope="module", params=BOARDS)
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, dict]]:
    board: str = request.param
    names = [case.name for case in CASES if board in case.boards]
    folder = Path(tmp_path_factory.mktemp(board))
    return board, environment.rows("compile", names, environment.mock(board), folder)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_compiles(case: Case, compiled: tuple[str, dict[str, dict]]) -> None:
    board, found = compiled
    if board not in case.boards:
        pytest.skip(f"not for {board}: {case.refused.get(board, f'grid {case.grid}')}")
    assert "error" not in found[case.name], found[case.name]["error"]
