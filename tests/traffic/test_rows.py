"""What must hold of a decode step of E2B and E4B on a p150, and what is said where none runs."""

from __future__ import annotations

import json

import pytest

from device_service.model.tt_boards import BOARDS, Board
from device_service.model.tt_plan import Precision
from tests.traffic import page
from tests.traffic.rows import CONTEXTS, MUST, WEIGHTS, make_row

P150 = BOARDS["p150"]


STEP_RATIO = 1.10
"""The most that a step of one sequence may move, over the least."""


def check(model: str, weights: Precision, context: int, board: Board = P150) -> None:
    row = make_row(model, board, weights, 1, context)
    assert row.why_not is None
    assert row.weight_read_ratio is not None
    assert 1 <= row.weight_read_ratio <= 1.02
    assert row.step_ratio is not None
    assert 1 <= row.step_ratio <= STEP_RATIO
    assert row.bare_ratio is not None
    assert row.bare_ratio > row.step_ratio
    assert row.launches_per_layer is not None
    assert row.launches_per_layer <= 8
    assert row.min_cores is not None
    assert row.min_cores >= 64
    assert row.predicted_tokens_per_s is not None
    assert row.ceiling_tokens_per_s is not None
    assert 17 < row.predicted_tokens_per_s < row.ceiling_tokens_per_s


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("model", ["E2B", "E4B"])
def test_a_step_of_one_sequence(model: str, weights: Precision, context: int) -> None:
    check(model, weights, context)


def test_a_step_on_the_smallest_board_where_least_is_least() -> None:
    check("E2B", "mixed", 131072, BOARDS["n150"])


def test_what_does_not_fit_is_a_row_with_the_reason() -> None:
    row = make_row("E4B", BOARDS["n150"], "bf16", 32, 131072)
    assert row.why_not is not None
    assert "GiB" in row.why_not
    told = json.loads(json.dumps(row.json()))
    assert all(told[name] is None for name in MUST)
    assert page.line(row).count("|") == page.HEADER.partition("\n")[0].count("|")
