"""One decode step of a full-size model on a mock card: the program inside .venv-tt.

    python -m tests.chip.mock_step BOARD MODEL PRECISION OUT.json

Every program of the step is compiled by TT-Lang, checked and enqueued by ttnn; a mock executes
nothing, so there is no result to look at. Weights are allocated and hold nothing. Writes one row;
see `Stepped`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from device_service.model.config import parse_config
from device_service.model.interface import Span, StepBatch
from device_service.model.tt_boards import BOARDS
from device_service.model.tt_plan import Precision, make_plan
from kernels import runtime
from tests.chip.mock_card import (
    CONTEXT_LENGTH,
    MODELS,
    EmptyWeights,
    Operations,
    Tensors,
    TtDecoder,
    used_bytes,
)

SLOTS = 1


@dataclass
class Stepped:
    """One step of one model."""

    model: str
    board: str
    weights: str
    slots: int
    context_length: int
    plan_bytes: int
    used_bytes: int
    """Of all banks, by the allocator's account, after the step."""
    programs: int
    """In ttnn's cache after the step."""
    first_seconds: float
    """Of the first step, everything compiled."""
    second_seconds: float
    """Of the second: what the host takes to enqueue."""


def main(board: str, model: str, precision: Precision, out: str) -> None:
    device = runtime.open_device()
    config, place = parse_config(MODELS[model]), BOARDS[board]
    plan = make_plan(config, place, precision=precision, slots=SLOTS, context_length=CONTEXT_LENGTH)
    tensors = Tensors(device)
    weights = EmptyWeights(config, precision, device)
    operations = Operations(place.grid, tensors)
    decoder = TtDecoder(config, weights, tensors, operations, SLOTS, CONTEXT_LENGTH)
    seconds: list[float] = []
    for position in range(2):
        began = time.perf_counter()
        decoder.run(StepBatch((Span(0, position, (2,), 1),)))
        seconds.append(time.perf_counter() - began)
    programs = device.num_program_cache_entries()
    row = Stepped(
        *(model, board, precision, SLOTS, CONTEXT_LENGTH, plan.total_bytes, used_bytes(device)),
        *(programs, *seconds),
    )
    Path(out).write_text(json.dumps(asdict(row), indent=1) + "\n")
    del decoder, tensors, weights
    runtime.close_device(device)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
