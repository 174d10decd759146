"""Places models on a mock card with ttnn's own allocator: the program inside .venv-tt.

    python -m tests.chip.mock_card BOARD OUT.json

The environment names the board's mock (see tests.chip.environment). For each model and precision,
every tensor of a plan is allocated, empty, and the allocator asked what that took of its banks:
at 4,096 positions and as many slots as the plan says fit, and with one slot more. Writes rows; see
`Placed`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernels import runtime

runtime.choose("tt")

import ttnn  # noqa: E402

from device_service.model.architecture import ModelConfig  # noqa: E402
from device_service.model.config import parse_config  # noqa: E402
from device_service.model.tt_boards import BOARDS, Board  # noqa: E402
from device_service.model.tt_plan import (  # noqa: E402
    FORMATS,
    Plan,
    Precision,
    WeightFormat,
    make_plan,
    matrices,
    most_slots,
)
from kernels.runtime import TILE  # noqa: E402
from tests.device_service.model.released import E2B, E4B, G12B, G31B  # noqa: E402

MODELS = {"E2B": E2B, "E4B": E4B, "12B": G12B, "31B": G31B}
PRECISIONS: tuple[Precision, ...] = ("bf16", "bfp8", "mixed")
CONTEXT_LENGTH = 4096
DTYPES = {"bf16": ttnn.bfloat16, "bfp8": ttnn.bfloat8_b, "bfp4": ttnn.bfloat4_b}

Shape = tuple[int, int]


@dataclass
class Placed:
    """One model on one board."""

    model: str
    board: str
    weights: str
    slots: int
    """That the plan says fit beside the weights; 0: not one does."""
    plan_bytes: int
    """What the plan says that these slots take, or one where none fits."""
    placed_bytes: int
    """What the allocator took of all banks for the same; 0 where it refused."""
    refused: str
    """What the allocator said, where it refused."""
    bank_bytes: int
    """What the allocator has, all banks."""
    slot_bytes: int
    """What one slot more takes by the allocator's account; 0 where none fits."""


def tensors(config: ModelConfig, plan: Plan) -> Iterator[tuple[Shape, WeightFormat]]:
    """Every tensor of a plan: its matrices, norms, keys and values, and activations."""
    for matrix in matrices(config):
        yield (matrix.k, matrix.n), FORMATS[plan.precision][matrix.group]
    d, p = config.hidden_size, config.per_layer_input_size
    yield (TILE, d), "bf16"
    for layer in config.layers:
        yield from [((TILE, d), "bf16")] * (5 if p else 4)
        yield from [((TILE, layer.head_dim), "bf16")] * (2 if layer.owns_kv else 1)
    yield from caches(config, plan.slots)
    widest = max(config.layers, key=lambda layer: layer.intermediate_size).intermediate_size
    heads = max((x.num_heads + 2 * x.num_kv_heads) * x.head_dim for x in config.layers)
    widths = [d] * 4 + [2 * widest] + [heads] * 3 + [p * len(config.layers)] * (2 if p else 0)
    for width in widths:
        yield (TILE, width), "bf16"


def caches(config: ModelConfig, slots: int) -> Iterator[tuple[Shape, WeightFormat]]:
    """Keys and values of every layer that has its own."""
    for layer in config.layers:
        if layer.owns_kv:
            length = CONTEXT_LENGTH if layer.window is None else layer.window - 1 + TILE
            rows = slots * layer.num_kv_heads * -(-length // TILE) * TILE
            yield from [((rows, layer.head_dim), "bf16")] * 2


class Card:
    """The mock's allocator."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._held: list[Any] = []

    @property
    def used(self) -> int:
        """Bytes of all banks that are taken."""
        view = self._view()
        return view.num_banks * view.total_bytes_allocated_per_bank

    @property
    def size(self) -> int:
        """Bytes of all banks."""
        view = self._view()
        return view.num_banks * view.total_bytes_per_bank

    def place(self, wanted: Iterator[tuple[Shape, WeightFormat]]) -> str:
        """Allocates; returns what the allocator said where it refused."""
        try:
            for shape, fmt in wanted:
                self._held.append(
                    ttnn.empty(
                        shape,
                        dtype=DTYPES[fmt],
                        layout=ttnn.TILE_LAYOUT,
                        device=self._device,
                        memory_config=ttnn.DRAM_MEMORY_CONFIG,
                    )
                )
        except RuntimeError as error:
            lines = str(error).partition("info:")[2].strip().splitlines()
            return lines[0] if lines else str(error)
        return ""

    def clear(self) -> None:
        """Gives all back."""
        for tensor in self._held:
            ttnn.deallocate(tensor)
        self._held.clear()
        assert self.used == 0, self.used

    def _view(self) -> Any:
        return ttnn.get_memory_view(self._device, ttnn.BufferType.DRAM)


def place(card: Card, name: str, board: Board, precision: Precision) -> Placed:
    """One model on one board."""
    config = parse_config(MODELS[name])
    slots = most_slots(config, board, precision=precision, context_length=CONTEXT_LENGTH)
    # A plan that is made for a board without end has the numbers of one that does not fit, too.
    endless = Board("endless", board.grid, 1 << 50, board.dram_bytes_per_second, 1.0)
    plan = make_plan(
        config,
        endless if not slots else board,
        precision=precision,
        slots=max(1, slots),
        context_length=CONTEXT_LENGTH,
    )
    refused = card.place(tensors(config, plan))
    used = 0 if refused else card.used
    slot_bytes = 0
    if slots:
        card.place(caches(config, 1))
        slot_bytes = card.used - used
    size = card.size
    card.clear()
    return Placed(
        name, board.name, precision, slots, plan.total_bytes, used, refused, size, slot_bytes
    )


def main(board: str, out: str) -> None:
    device = runtime.open_device()
    card = Card(device)
    found = [
        asdict(place(card, name, BOARDS[board], precision))
        for name in MODELS
        for precision in PRECISIONS
    ]
    Path(out).write_text(json.dumps(found, indent=1) + "\n")
    runtime.close_device(device)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
