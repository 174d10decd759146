"""Every kernel as compiled, executed on a simulated chip, against torch.

On the vendor's Blackhole also: wolfpine, which shares no code with it, gives the same bits.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels import runtime

runtime.choose("sim")  # this process only reads the table; the chip is in a process of its own

from tests.chip import environment, results, runner  # noqa: E402
from tests.chip.environment import SIMULATOR, WOLFPINE, name_of  # noqa: E402
from tests.kernels.case import Case  # noqa: E402
from tests.kernels.unseen import SURROUNDINGS  # noqa: E402

pytestmark = pytest.mark.chip
NAME = name_of(SIMULATOR)
NO_FLOATS = "Wormhole does not support Zfh/F/D/Q"
CASES = results.cases_for(NAME)
ON_BOTH = [
    case for case in results.cases_for(WOLFPINE) if NAME == "ttsim" and NAME not in case.refused
]
UNSEEN = [] if NAME == WOLFPINE else list(SURROUNDINGS)  # minutes each in Python


@pytest.fixture(scope="module")
def found() -> results.Rows:
    return results.run(SIMULATOR)


@pytest.fixture(scope="module")
def on_wolfpine() -> results.Rows:
    return results.run(WOLFPINE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_compiled_kernel_agrees_with_torch(case: Case, found: results.Rows) -> None:
    if NAME in case.refused:
        pytest.skip(f"{NAME} refuses: {case.refused[NAME]}")
    row = found[case.name]
    if NO_FLOATS in row.get("error", ""):
        pytest.skip("the stand-in compiler keeps a scalar float, which Wormhole's cores have not")
    assert "error" not in row, row["error"]
    assert row["roundings"] <= case.roundings


@pytest.mark.parametrize("case", ON_BOTH, ids=lambda case: case.name)
def test_both_simulators_give_the_same_bits(
    case: Case, found: results.Rows, on_wolfpine: results.Rows
) -> None:
    ours, theirs = found[case.name], on_wolfpine[case.name]
    assert "error" not in theirs, theirs["error"]
    assert ours.get("digest") == theirs["digest"]


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, runner.Row]:
    return runner.rows(
        environment.python(),
        "run",
        UNSEEN,
        environment.simulated(SIMULATOR),
        Path(tmp_path_factory.mktemp("unseen")),
        program="tests.chip.state.unseen",
    )


@pytest.mark.parametrize("name", UNSEEN)
def test_what_a_row_does_not_see_leaves_no_trace(name: str, unseen: dict[str, runner.Row]) -> None:
    row = unseen[name]
    assert "error" not in row, row["error"]
    assert (row["differing"], row["nonzero"]) == (0, True)
