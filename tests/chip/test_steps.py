"""Whole decoder steps as compiled, on a simulated chip, against the reference.

Small checkpoints of every family on the vendor's Blackhole, one of them on wolfpine. The reference
reads the same tokens in float32; the judging is in tests/chip/steps/judging.py.
"""

from __future__ import annotations

import pytest

from kernels import runtime

runtime.choose("sim")  # this process only reads the table; the chip is in a process of its own

from tests.chip import results  # noqa: E402
from tests.chip.environment import SIMULATOR, name_of  # noqa: E402
from tests.chip.steps.judging import Weights  # noqa: E402
from tests.chip.steps.scenarios import Run  # noqa: E402

pytestmark = pytest.mark.chip
NAME = name_of(SIMULATOR)
RUNS = results.steps_for(NAME)
LEAST_LAYER_PCC: dict[Weights, float] = {"bf16": 0.999, "bfp8": 0.995}
LEAST_LOGITS_PCC = 0.999
BEYOND_ROUNDING = 0.002
"""How much lower than the format's rounding alone makes it, where that is below the least."""


@pytest.fixture(scope="module")
def found() -> results.Rows:
    if NAME == "wormhole":
        pytest.skip("the decoder is laid out for a p150's cores")
    return results.run_steps(SIMULATOR)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_whole_steps_are_the_references(run: Run, found: results.Rows) -> None:
    row = found[run.name]
    assert "error" not in row, row["error"]
    for layer in row["layers"]:
        assert layer["pcc"] >= LEAST_LAYER_PCC[run.weights], layer
    logits = row["logits"]
    rounded = logits["rounded_logits_pcc"] - BEYOND_ROUNDING if run.weights == "bfp8" else 1.0
    assert logits["logits_pcc"] >= min(LEAST_LOGITS_PCC, rounded), logits
    assert logits["same"] + logits["ties"] > 0
    assert logits["others"] == 0, logits
