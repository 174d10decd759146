"""The judge of whole steps: what it compares with what, and what it calls a tie."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.interface import Span, StepBatch
from device_service.model.reference import ReferenceModel
from tests.checkpoints import write_checkpoint
from tests.chip.steps import judging
from tests.chip.steps.scenarios import SCENARIOS, Scenario


def step(*spans: tuple[int, int, tuple[int, ...], int]) -> StepBatch:
    return StepBatch(tuple(Span(*span) for span in spans))


def test_a_step_is_compared_with_the_sequence_as_it_was_then(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "e2b")
    config = load_config(tmp_path)
    checkpoint = Checkpoint.open(tmp_path, config)
    steps = [
        step((1, 1, (110, 111), 1), (0, 0, (5, 6), 0)),
        step((1, 3, (112,), 1)),
        step((1, 2, (113, 114), 2)),  # two tokens are taken back
    ]
    reference = ReferenceModel(config, checkpoint)
    rounded = judging.RoundedModel(config, checkpoint, "bf16")
    wanted = judging.wanted(judging.ExactModel(config, checkpoint), rounded, steps, {1: (2,)})
    before, after, other = (
        reference.run(ids) for ids in ([2, 110, 111, 112], [2, 110, 113, 114], [5, 6])
    )
    torch.testing.assert_close(
        wanted[0].layers[3], torch.cat((before.layers[3][1:3], other.layers[3]))
    )
    torch.testing.assert_close(wanted[0].logits, before.logits[2:3])
    torch.testing.assert_close(wanted[1].logits, before.logits[3:])
    torch.testing.assert_close(wanted[2].logits, after.logits[2:])


def test_rounded_weights_are_further_away(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "e4b", dtype=torch.bfloat16)
    config = load_config(tmp_path)
    checkpoint = Checkpoint.open(tmp_path, config)
    steps = [step((0, 0, (2, 110, 111, 112), 4))]
    distances: list[float] = []
    for weights in ("bf16", "bfp8"):
        rounded = judging.RoundedModel(config, checkpoint, weights)
        (wanted,) = judging.wanted(judging.ExactModel(config, checkpoint), rounded, steps)
        distances.append(1 - judging.layer_row(7, wanted.layers[7], wanted)["rounded_pcc"])
    assert 0 < distances[0] < distances[1] < 0.01


EXACT = torch.tensor([[9.0, 8.0, 7.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
NEAR = EXACT + 0.1
"""Everything is 0.1 off: a tie is anything nearer than 0.4."""


@pytest.mark.parametrize(
    ("got", "told"),
    [
        ([9.1, 8.3, 7.2, 1.0, 0.0, 0.0, 0.0, 0.0], "same"),
        ([8.0, 9.0, 7.0, 1.0, 0.0, 0.0, 0.0, 0.0], "others"),
        ([9.0, 8.0, 1.0, 7.0, 0.0, 0.0, 0.0, 0.0], "others"),
        ([math.nan] * 8, "others"),
    ],
)
def test_the_best_three_are_the_same_in_their_order(got: list[float], told: str) -> None:
    row = judging.best(torch.tensor([got]), EXACT, NEAR)
    assert {name: row[name] for name in ("same", "ties", "others")} == {
        "same": 0, "ties": 0, "others": 0, told: 1
    }  # fmt: skip


def test_an_exchange_within_what_rounding_moves_is_a_tie() -> None:
    exact = torch.tensor([[9.0, 8.9, 7.0, 1.0]])
    row = judging.best(torch.tensor([[8.9, 9.0, 7.0, 1.0]]), exact, exact + 0.1)
    assert (row["same"], row["ties"], row["others"]) == (0, 1, 0)
    assert row["widest_tie"] == pytest.approx(0.1, abs=1e-5)
    assert row["tie_width"] == pytest.approx(0.4, abs=1e-5)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenarios_are_within_the_limits_of_a_step(scenario: Scenario) -> None:
    held: dict[int, int] = {}
    for one in scenario.steps():
        assert one.num_rows <= 32
        assert len({span.slot for span in one.spans}) == len(one.spans)
        for span in one.spans:
            assert 0 <= span.slot < scenario.slots
            assert span.start <= held.get(span.slot, 0)
            held[span.slot] = span.start + len(span.token_ids)
            assert held[span.slot] <= scenario.context_length
