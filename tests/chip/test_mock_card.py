"""Every served model placed on every board's mock by ttnn's own allocator, against the plan."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from device_service.model.tt_boards import BOARDS
from device_service.model.tt_plan import MAX_SLOTS
from tests.chip import environment

pytestmark = pytest.mark.kernels
MODELS = ("E2B", "E4B", "12B", "31B")
WEIGHTS = ("bf16", "bfp8", "mixed")
ROUNDING = 1.003
"""What equal banks, and head norms in float32, may add to a plan."""

Rows = dict[tuple[str, str], dict]


@pytest.fixture(scope="module", params=BOARDS)
def placed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    board: str = request.param
    folder = Path(tmp_path_factory.mktemp(board))
    program = [environment.python(), "-m", "tests.chip.mock_card", board, folder / "rows.json"]
    done = subprocess.run(
        program,
        cwd=folder,
        env=environment.mock(board, compile_only=False),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((folder / "rows.json").read_text())
    return {(row["model"], row["weights"]): row for row in found}


@pytest.mark.parametrize("board", ["p150", "n150"])
def test_a_step_of_e4b_is_compiled_checked_and_enqueued_within_its_plan(
    board: str, tmp_path: Path
) -> None:
    program = ["-m", "tests.chip.mock_step", board, "E4B", "bfp8", tmp_path / "row.json"]
    env = environment.mock(board, compile_only=False)
    done = subprocess.run(
        [environment.python(), *program],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads((tmp_path / "row.json").read_text())
    # What a plan forgot would be much more.
    assert 0.98 * row["plan_bytes"] <= row["used_bytes"] <= row["plan_bytes"] * ROUNDING


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("model", MODELS)
def test_a_plan_is_what_the_allocator_takes_and_its_slots_are_all_that_fit(
    model: str, weights: str, placed: Rows
) -> None:
    row = placed[model, weights]
    board = BOARDS[row["board"]]
    assert row["bank_bytes"] == board.dram_bytes
    for_steps = row["plan_bytes"] - row["plan_kept_bytes"]
    if not row["slots"]:
        assert row["refused"] or row["placed_bytes"] + for_steps > board.usable_bytes
        return
    assert not row["refused"]
    assert row["plan_kept_bytes"] <= row["placed_bytes"] <= row["plan_kept_bytes"] * ROUNDING
    assert row["placed_bytes"] + for_steps <= board.usable_bytes * ROUNDING
    if row["slots"] < MAX_SLOTS:
        assert row["placed_bytes"] + for_steps + row["slot_bytes"] > board.usable_bytes
