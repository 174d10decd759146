"""The decoder's own sequence of launches for one decode step, at full size, without a number.

The real `TtDecoder`, over the real `TtWeights`, is run on handles: its tensors have a shape, a
format and a role, its operations write down what they are called with. So the account is of what
the decoder does, and changes when it does. Knows the decoder's seams (`Tensors`,
`Operations.build`); knows no kernel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.checkpoint_tensors import expected_tensors
from device_service.model.interface import Span, StepBatch
from device_service.model.tt_boards import Board
from device_service.model.tt_decoder import TtDecoder
from device_service.model.tt_operations import Operations
from device_service.model.tt_plan import Precision
from device_service.model.tt_tensors import Tensors
from device_service.model.tt_weights import DeviceTensor, head_tensors, layer_tensors
from kernels.runtime import TILE, TILE_BYTES, Format
from kernels.tiles import num_bytes

Role = Literal["weights", "norm", "kv", "activation", "constant"]
"""`weights` are matrices; `norm` is what is multiplied elementwise; `kv` caches and staging."""


@dataclass(frozen=True, eq=False)
class Handle:
    """What the decoder takes for a tensor in DRAM."""

    label: str
    shape: tuple[int, int]
    fmt: Format
    role: Role

    @property
    def num_bytes(self) -> int:
        """In DRAM, whole tiles."""
        return num_bytes(self.shape, self.fmt)


@dataclass(frozen=True)
class Call:
    """One launch of a TT-Lang operation."""

    layer: int | None
    """None: before the first or behind the last."""
    factory: Callable[[Any], Callable[..., None]]
    config: Any
    operands: tuple[Handle, ...]

    @property
    def kernel(self) -> str:
        """Its name."""
        return self.factory.__name__


@dataclass(frozen=True)
class Move:
    """Tile rows copied by ttnn's paged_fill_cache, which is no TT-Lang.

    Its source reads every tile row of the source and writes those that the table names.
    """

    read_bytes: int
    written_bytes: int


@dataclass
class Recorded:
    """All that one step did."""

    calls: list[Call] = field(default_factory=list[Call])
    moves: list[Move] = field(default_factory=list[Move])
    uploads: list[int] = field(default_factory=list[int])
    """Bytes of each."""
    downloads: list[int] = field(default_factory=list[int])


class _Tensors(Tensors):
    """The device's memory, of which nothing is real."""

    def __init__(self) -> None:
        super().__init__(None)
        self.recorded = Recorded()

    def put(self, host: torch.Tensor, fmt: Format = "bf16") -> Handle:
        return self._handle("", host.shape, fmt, "constant")

    def zeros(self, rows: int, columns: int, fmt: Format = "bf16") -> Handle:
        return self._handle("", (rows, columns), fmt, "kv")

    def buffer(self, name: str, rows: int, columns: int, fmt: Format = "bf16") -> Handle:
        key = (name, rows, columns)
        if key not in self._buffers:
            handle = self._handle(name, (rows, columns), fmt, "activation")
            self._buffers[key], self._bytes[key] = handle, handle.num_bytes
        return self._buffers[key]

    def upload(self, name: str, host: torch.Tensor, fmt: Format = "bf16") -> Handle:
        handle = self.buffer(name, -(-len(host) // TILE) * TILE, host.shape[1], fmt)
        self.recorded.uploads.append(handle.num_bytes)
        return handle

    def get(self, tensor: Handle) -> torch.Tensor:
        self.recorded.downloads.append(tensor.num_bytes)
        return torch.zeros(1).expand(tensor.shape)

    def copy_tile_rows(self, target: Handle, source: Handle, table: torch.Tensor) -> None:
        row = source.shape[1] // TILE * TILE_BYTES[source.fmt]
        self.recorded.moves.append(Move(len(table) * row, int((table >= 0).sum()) * row))
        assert target.shape[1] == source.shape[1]

    def _handle(self, label: str, shape: Sequence[int], fmt: Format, role: Role) -> Handle:
        rows, columns = shape
        assert not rows % TILE, f"{label}: {rows} × {columns}"
        assert not columns % TILE, f"{label}: {rows} × {columns}"
        return Handle(label, (rows, columns), fmt, role)


class _Operations(Operations):
    """Kernels that write down what they are called with."""

    def __init__(self, board: Board, tensors: _Tensors) -> None:
        super().__init__(board.grid, tensors)
        self._recorded_in = tensors
        self.layer: int | None = None

    def build(self, factory: Callable[[Any], Any], config: Any) -> Callable[..., None]:
        def operation(*operands: Handle) -> None:
            self._recorded_in.recorded.calls.append(Call(self.layer, factory, config, operands))

        return operation


class _Weights:
    """A model's `TtWeights`: what `layer_tensors` and `head_tensors` say that a device holds."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        self._config = config
        self.precision: Precision = precision

    def layer(self, layer: LayerConfig) -> Mapping[str, Handle]:
        return self._handles(layer_tensors(self._config, layer, self.precision))

    def head(self) -> Mapping[str, Handle]:
        return self._handles(head_tensors(self._config, self.precision))

    def host(self, name: str) -> torch.Tensor:
        shape = expected_tensors(self._config)[f"{name}.weight"]
        if name == "per_layer_model_projection":  # the only one that is multiplied
            return torch.zeros(shape, dtype=torch.bfloat16)
        return torch.zeros(1, dtype=torch.bfloat16).expand(shape)

    def _handles(self, tensors: Sequence[DeviceTensor]) -> Mapping[str, Handle]:
        return {
            x.name: Handle(x.name, x.shape, x.fmt, "norm" if _NO_MATRIX(x.name) else "weights")
            for x in tensors
        }


_NO_MATRIX = re.compile(r"(.*norms?|scalar)$").match


@dataclass(frozen=True)
class Step:
    """One decode step: the launches, and what a step that completes a tile row copies besides."""

    calls: tuple[Call, ...]
    moves: tuple[Move, ...]
    """Of a step in which every slot's tile row has become complete: one step in 32."""
    uploaded_bytes: int
    """In any step."""
    changed_bytes: int
    """And in a step in which a slot's tile row has become complete: masks that change only then."""
    downloaded_bytes: int


def record(
    config: ModelConfig, board: Board, precision: Precision, batch: int, context: int
) -> Step:
    """A decode step of `batch` sequences whose newest token is the `context`-th."""
    decoder, tensors, operations = _decoder(config, board, precision, batch, context)

    def after(layer: int, _: torch.Tensor) -> None:
        operations.layer = layer + 1 if layer + 1 < len(config.layers) else None
        tensors.recorded.downloads.pop()  # what it took to observe

    def spans(position: int) -> list[tuple[int, int, int]]:
        return [(slot, position, position) for slot in range(batch)]

    edge = (context - 1) // TILE * TILE  # the first position of the newest token's tile row
    decoder._staging.place(spans(edge - 1))

    def step(position: int) -> Recorded:
        tensors.recorded, operations.layer = Recorded(), 0
        decoder.run(StepBatch(tuple(Span(x, position, (2,), 1) for x in range(batch))), after)
        return tensors.recorded

    first, last = step(edge), step(context - 1)
    assert first.moves
    assert not last.moves
    changed = sum(first.uploads) - sum(last.uploads)
    return Step(
        tuple(last.calls), tuple(first.moves), sum(last.uploads), changed, sum(last.downloads)
    )


def record_prompt(
    config: ModelConfig, board: Board, precision: Precision, slots: int, context: int
) -> Tensors:
    """The memory after a step with a prompt's last chunk, 32 rows, in the last slot."""
    decoder, tensors, _ = _decoder(config, board, precision, slots, context)
    span = Span(slots - 1, context - TILE, (2,) * TILE, 1)
    decoder.run(StepBatch((span,)))
    return tensors


def _decoder(
    config: ModelConfig, board: Board, precision: Precision, slots: int, context: int
) -> tuple[TtDecoder, _Tensors, _Operations]:
    tensors = _Tensors()
    operations = _Operations(board, tensors)
    weights = _Weights(config, precision)
    decoder = TtDecoder(config, weights, tensors, operations, slots, context)
    return decoder, tensors, operations
