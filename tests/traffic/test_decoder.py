"""A recorded step counts what the functional simulator counts of the same step with numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.interface import Span, StepBatch
from device_service.model.tt_boards import BOARDS
from device_service.model.tt_decoder import TtDecoder
from device_service.model.tt_operations import Operations
from device_service.model.tt_tensors import Tensors
from device_service.model.tt_weights import CheckpointWeights
from kernels import simulator
from tests.checkpoints import Family, write_checkpoint
from tests.traffic.account import account, count
from tests.traffic.decoder import record

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
