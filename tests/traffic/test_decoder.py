"""A recorded step counts what the functional simulator counts of the same step with numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config, parse_config
from device_service.model.interface import Span, StepBatch
from device_service.model.tt_boards import BOARDS
from device_service.model.tt_decoder import TtDecoder
from device_service.model.tt_operations import Operations
from device_service.model.tt_plan import make_plan
from device_service.model.tt_tensors import Tensors
from device_service.model.tt_weights import CheckpointWeights
from kernels import simulator
from tests.checkpoints import Family, write_checkpoint
from tests.device_service.model.released import E2B, E4B, G12B, G31B
from tests.traffic.account import account, count
from tests.traffic.decoder import record, record_prompt

MODELS = {"E2B": E2B, "E4B": E4B, "12B": G12B, "31B": G31B}
CONTEXT, BATCH = 128, 2
SMALL = replace(BOARDS["p150"], grid=(2, 2))
"""As many cores as the decoder uses in the functional simulator."""


@pytest.mark.parametrize("family", ["e2b"])
def test_a_recorded_step_moves_what_a_real_one_does(family: Family, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, family)
    config = load_config(tmp_path)
    checkpoint = Checkpoint.open(tmp_path, config)
    tensors = Tensors(None)
    weights = CheckpointWeights(checkpoint, config, None, "bf16", lambda _: None)
    operations = Operations(SMALL.grid, tensors)
    decoder = TtDecoder(config, weights, tensors, operations, BATCH, CONTEXT)
    spans = tuple(Span(slot, CONTEXT - 1, (2,), num_readouts=1) for slot in range(BATCH))
    with simulator.counting() as traffic:
        decoder.run(StepBatch(spans))
    step = record(config, SMALL, "bf16", BATCH, CONTEXT)
    counted = [count(call) for call in step.calls]
    operands = [operand for one in counted for operand in one.operands]
    assert len(step.calls) == traffic.launches
    assert sum(x.read_bytes for x in operands) == sum(traffic.read_bytes.values())
    assert sum(x.written_bytes for x in operands) == sum(traffic.written_bytes.values())
    assert max(x.l1_bytes for x in counted) == traffic.l1_bytes
    told = account(config, "bf16", BATCH, CONTEXT, step)
    assert told.weight_read_ratio > 1  # small heads are padded
    assert told.step_ratio > told.weight_read_ratio


@pytest.mark.parametrize("context", [512, 32_768])
@pytest.mark.parametrize("slots", [1, 5, 32])
@pytest.mark.parametrize("model", MODELS)
def test_no_step_takes_more_than_is_planned(model: str, slots: int, context: int) -> None:
    """A whole prompt chunk in the last slot, at the end of its context: attention covers all."""
    config, board = parse_config(MODELS[model]), replace(BOARDS["p150"], dram_bytes=1 << 50)
    plan = make_plan(config, board, precision="mixed", slots=slots, context_length=context)
    tensors = record_prompt(config, board, "mixed", slots, context)
    assert 0.5 * plan.activation_bytes < tensors.step_bytes <= plan.activation_bytes
