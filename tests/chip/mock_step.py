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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kernels import runtime

runtime.choose("tt")

import ttnn  # noqa: E402

from device_service.model.architecture import LayerConfig, ModelConfig  # noqa: E402
from device_service.model.checkpoint_tensors import expected_tensors  # noqa: E402
from device_service.model.config import parse_config  # noqa: E402
from device_service.model.interface import Span, StepBatch  # noqa: E402
from device_service.model.tt_boards import BOARDS  # noqa: E402
from device_service.model.tt_decoder import TtDecoder  # noqa: E402
from device_service.model.tt_operations import Operations  # noqa: E402
from device_service.model.tt_plan import Precision, make_plan  # noqa: E402
from device_service.model.tt_tensors import Tensors  # noqa: E402
from device_service.model.tt_weights import DeviceTensor, head_tensors, layer_tensors  # noqa: E402
from tests.device_service.model.released import E2B, E4B, G12B, G31B  # noqa: E402

MODELS = {"E2B": E2B, "E4B": E4B, "12B": G12B, "31B": G31B}
SLOTS, CONTEXT_LENGTH = 1, 4096


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


class EmptyWeights:
    """`TtWeights` that hold nothing: on the device allocated, on the host without memory."""

    def __init__(self, config: ModelConfig, precision: Precision, device: Any) -> None:
        self.precision: Precision = precision
        self._config, self._device = config, device
        self._shapes = expected_tensors(config)

    def layer(self, layer: LayerConfig) -> Mapping[str, Any]:
        return self._empty(layer_tensors(self._config, layer, self.precision))

    def head(self) -> Mapping[str, Any]:
        return self._empty(head_tensors(self._config, self.precision))

    def host(self, name: str) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.bfloat16).expand(self._shapes[f"{name}.weight"])

    def _empty(self, tensors: Sequence[DeviceTensor]) -> Mapping[str, Any]:
        return {
            x.name: ttnn.empty(
                x.shape,
                dtype=runtime.dtype(x.fmt),
                layout=ttnn.TILE_LAYOUT,
                device=self._device,
                memory_config=ttnn.DRAM_MEMORY_CONFIG,
            )
            for x in tensors
        }


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
    view = ttnn.get_memory_view(device, ttnn.BufferType.DRAM)
    used = view.num_banks * view.total_bytes_allocated_per_bank
    programs = device.num_program_cache_entries()
    row = Stepped(
        *(model, board, precision, SLOTS, CONTEXT_LENGTH, plan.total_bytes, used),
        *(programs, *seconds),
    )
    Path(out).write_text(json.dumps(asdict(row), indent=1) + "\n")
    del decoder, tensors, weights
    runtime.close_device(device)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
