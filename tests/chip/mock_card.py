"""Places models on a mock card with ttnn's own allocator: the program inside .venv-tt.

    python -m tests.chip.mock_card BOARD OUT.json

The environment names the board's mock (see tests.chip.environment). For each model and precision,
the real decoder allocates all that it keeps, weights (which hold nothing), keys and values, at
4,096 positions and as many slots as the plan says fit; the allocator is asked what that took of its
banks, and what one slot more takes. Writes rows; see `Placed`.
"""

from __future__ import annotations

import gc
import json
import sys
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
from device_service.model.tt_boards import BOARDS, Board  # noqa: E402
from device_service.model.tt_caches import Caches  # noqa: E402
from device_service.model.tt_decoder import TtDecoder  # noqa: E402
from device_service.model.tt_operations import Operations  # noqa: E402
from device_service.model.tt_plan import (  # noqa: E402
    MAX_SLOTS,
    Precision,
    make_plan,
    most_slots,
)
from device_service.model.tt_tensors import Tensors  # noqa: E402
from device_service.model.tt_weights import DeviceTensor, head_tensors, layer_tensors  # noqa: E402
from tests.device_service.model.released import E2B, E4B, G12B, G31B  # noqa: E402

MODELS = {"E2B": E2B, "E4B": E4B, "12B": G12B, "31B": G31B}
PRECISIONS: tuple[Precision, ...] = ("bf16", "bfp8", "mixed")
CONTEXT_LENGTH = 4096


@dataclass
class Placed:
    """One model on one board. Sizes in bytes."""

    model: str
    board: str
    weights: str
    slots: int
    """That the plan says fit beside the weights; 0: not one does."""
    plan_bytes: int
    """What the plan says that these slots take, or one where none fits."""
    plan_kept_bytes: int
    """Of it weights, norms, keys and values."""
    placed_bytes: int
    """What the allocator took of all banks for those; 0 where it refused."""
    refused: str
    """What the allocator said, where it refused."""
    bank_bytes: int
    """What the allocator has, all banks."""
    slot_bytes: int
    """What one slot more takes; 0 where more are not served, or none fits."""


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


def used_bytes(device: Any) -> int:
    """What the allocator has given of all banks."""
    view = ttnn.get_memory_view(device, ttnn.BufferType.DRAM)
    return view.num_banks * view.total_bytes_allocated_per_bank


def place(device: Any, name: str, board: Board, precision: Precision) -> Placed:
    """One model on one board."""
    config = parse_config(MODELS[name])
    slots = most_slots(config, board, precision=precision, context_length=CONTEXT_LENGTH)
    # A plan that is made for a board without end has the numbers of one that does not fit, too.
    endless = Board("endless", board.grid, 1 << 50, board.dram_bytes_per_second, 1.0)
    plan = make_plan(
        config,
        board if slots else endless,
        precision=precision,
        slots=max(1, slots),
        context_length=CONTEXT_LENGTH,
    )
    view = ttnn.get_memory_view(device, ttnn.BufferType.DRAM)
    tensors = Tensors(device)
    held: list[Any] = []
    refused, placed, slot_bytes = "", 0, 0
    try:
        weights = EmptyWeights(config, precision, device)
        operations = Operations(board.grid, tensors)
        held.append(TtDecoder(config, weights, tensors, operations, max(1, slots), CONTEXT_LENGTH))
        placed = used_bytes(device)
        if 0 < slots < MAX_SLOTS:
            held.append(Caches(config.layers, 1, CONTEXT_LENGTH, tensors))
            slot_bytes = used_bytes(device) - placed
    except RuntimeError as error:
        lines = str(error).partition("info:")[2].strip().splitlines()
        refused = lines[0] if lines else str(error)
    held.clear()
    gc.collect()
    assert used_bytes(device) == 0, used_bytes(device)
    return Placed(
        *(name, board.name, precision, slots),
        *(plan.total_bytes, plan.total_bytes - plan.activation_bytes, placed, refused),
        *(view.num_banks * view.total_bytes_per_bank, slot_bytes),
    )


def main(board: str, out: str) -> None:
    device = runtime.open_device()
    found = [
        asdict(place(device, name, BOARDS[board], precision))
        for name in MODELS
        for precision in PRECISIONS
    ]
    Path(out).write_text(json.dumps(found, indent=1) + "\n")
    runtime.close_device(device)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
