"""What lies where on a board: a plan of a model's DRAM, made and checked before any allocation.

Pure arithmetic over a `ModelConfig` and a `Board`. Every matrix is stored once, [K, N] in 32 × 32
tiles, in the number format of its group. What a step only looks up (embeddings of tokens, per-layer
embeddings) and the projection to the per-layer inputs stay on the host, mapped. Sizes use the key
of `README.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import Literal

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.tt_boards import GIB, Board
from device_service.model.tt_staging import STAGED, part, stride
from kernels.runtime import TILE, TILE_BYTES, Format
from kernels.units import GROUP

WeightFormat = Literal["bf16", "bfp8", "bfp4"]
Precision = Literal["bf16", "bfp8", "mixed"]
Group = Literal["attention", "mlp", "per_layer", "lm_head"]

FORMATS: Mapping[Precision, Mapping[Group, WeightFormat]] = MappingProxyType(
    {
        "bf16": {"attention": "bf16", "mlp": "bf16", "per_layer": "bf16", "lm_head": "bf16"},
        "bfp8": {"attention": "bfp8", "mlp": "bfp8", "per_layer": "bf16", "lm_head": "bfp8"},
        "mixed": {"attention": "bfp4", "mlp": "bfp4", "per_layer": "bf16", "lm_head": "bfp8"},
    }
)
"""The format of each group of weights under each precision. `kernels.ple` reads bf16 only."""
MASKS: Mapping[Precision, Format] = MappingProxyType(
    {"bf16": "bf16", "bfp8": "bfp4", "mixed": "bfp4"}
)
"""That of attention's masks: a quarter of the bytes in bfp4, where weights are block floats too.
(wolfpine reads none.)"""

MAX_SLOTS = TILE
"""Attention's units of one launch are 32 chunks or fewer, one of each slot."""


class PlanError(ValueError):
    """The model does not fit the board; the message has the numbers."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """One weight matrix [k, n] as the kernels read it."""

    name: str
    group: Group
    k: int
    n: int
    on_host: bool = False
    """Not in the board's DRAM."""

    def num_bytes(self, fmt: WeightFormat) -> int:
        """In DRAM, whole tiles."""
        return ceil(self.k / TILE) * ceil(self.n / TILE) * TILE_BYTES[fmt]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model lies in a board's DRAM. All sizes in bytes."""

    board: Board
    precision: Precision
    slots: int
    context_length: int
    weight_bytes: Mapping[Group, int]
    """Read whole once a step."""
    norm_bytes: int
    ring_bytes: int
    """Keys and values of sliding layers, staging included, all slots."""
    full_kv_bytes: int
    """Keys and values of full layers, staging included, all slots."""
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        """What the model takes of the DRAM."""
        return (
            sum(self.weight_bytes.values())
            + self.norm_bytes
            + self.ring_bytes
            + self.full_kv_bytes
            + self.activation_bytes
        )

    @property
    def free_bytes(self) -> int:
        """What the board has besides; negative where the model does not fit."""
        return self.board.usable_bytes - self.total_bytes

    @property
    def fits(self) -> bool:
        """Whether the board has that much."""
        return self.free_bytes >= 0

    def lines(self) -> Iterator[str]:
        """The plan for people, one line an entry."""
        rows = [(f"weights: {group}", size) for group, size in self.weight_bytes.items() if size]
        rows += [
            ("norms", self.norm_bytes),
            (f"KV rings, {self.slots} slots", self.ring_bytes),
            (f"KV of full layers, {self.slots} × {self.context_length}", self.full_kv_bytes),
            ("activations", self.activation_bytes),
            ("in all", self.total_bytes),
            (f"{self.board.name} has", self.board.usable_bytes),
        ]
        for name, size in rows:
            yield f"{name:<40}{size / GIB:9.3f} GiB"


def matrices(config: ModelConfig) -> Iterator[Matrix]:
    """Every matrix that a step multiplies by, as stored: q, k and v in one, gate and up in one."""
    d = config.hidden_size
    for layer in config.layers:
        name = f"layers.{layer.index}"
        q, kv = layer.num_heads * layer.head_dim, layer.num_kv_heads * layer.head_dim
        own = 0 if not layer.owns_kv else kv if layer.k_eq_v else 2 * kv
        yield Matrix(f"{name}.qkv", "attention", d, q + own)
        yield Matrix(f"{name}.o", "attention", q, d)
        yield Matrix(f"{name}.gate_up", "mlp", d, 2 * layer.intermediate_size)
        yield Matrix(f"{name}.down", "mlp", layer.intermediate_size, d)
        if p := config.per_layer_input_size:
            yield Matrix(f"{name}.per_layer_gate", "per_layer", d, p)
            yield Matrix(f"{name}.per_layer_projection", "per_layer", p, d)
    if p := config.per_layer_input_size:
        n = p * len(config.layers)
        yield Matrix("per_layer_model_projection", "per_layer", d, n, on_host=True)
    yield Matrix("lm_head", "lm_head", d, config.vocab_size)


def make_plan(
    config: ModelConfig,
    board: Board,
    *,
    precision: Precision,
    slots: int,
    context_length: int,
    max_rows: int = TILE,
) -> Plan:
    """Lays a model out.

    Args:
        config: the model.
        board: where it is to run.
        precision: of the weights; activations and KV are bfloat16.
        slots: sequences with a KV cache of their own.
        context_length: positions a slot's full layers hold.
        max_rows: rows a step may have, at most one tile.

    Raises:
        PlanError: it does not fit, or an argument is out of its limits; the message says by how
            much, and what would fit.
    """
    if not 1 <= max_rows <= TILE:
        raise PlanError(f"max_rows is {max_rows}, and a step has at most {TILE} rows")
    if not 1 <= slots <= MAX_SLOTS:
        raise PlanError(f"slots is {slots}, not 1 to {MAX_SLOTS}: a step has a row for each")
    if not 1 <= context_length <= config.max_position_embeddings:
        raise PlanError(
            f"context_length is {context_length}, not 1 to {config.max_position_embeddings}"
        )
    plan = _lay_out(config, board, precision, slots, context_length)
    if not plan.fits:
        raise PlanError(_too_big(config, plan))
    return plan


def most_slots(
    config: ModelConfig, board: Board, *, precision: Precision, context_length: int
) -> int:
    """Slots of so many positions that fit beside the weights, at most 32; 0 where not one does."""
    for slots in range(MAX_SLOTS, 0, -1):
        if _lay_out(config, board, precision, slots, context_length).fits:
            return slots
    return 0


def _lay_out(
    config: ModelConfig,
    board: Board,
    precision: Precision,
    slots: int,
    context_length: int,
) -> Plan:
    formats = FORMATS[precision]
    weights: dict[Group, int] = dict.fromkeys(("attention", "mlp", "per_layer", "lm_head"), 0)
    for matrix in matrices(config):
        if not matrix.on_host:
            weights[matrix.group] += matrix.num_bytes(formats[matrix.group])
    kv = {
        layer.index: _kv_bytes(layer, stride(layer, context_length) + STAGED)
        for layer in config.layers
        if layer.owns_kv
    }
    rings = sum(size for i, size in kv.items() if config.layers[i].window is not None)
    full = sum(kv.values()) - rings
    return Plan(
        board=board,
        precision=precision,
        slots=slots,
        context_length=context_length,
        weight_bytes=weights,
        norm_bytes=_norm_bytes(config),
        ring_bytes=slots * rings,
        full_kv_bytes=slots * full,
        activation_bytes=_activation_bytes(config, precision, slots, context_length),
    )


def _kv_bytes(layer: LayerConfig, positions: int) -> int:
    """Keys and values of one slot, bfloat16."""
    return 2 * layer.num_kv_heads * layer.head_dim * positions * 2


def _norm_bytes(config: ModelConfig) -> int:
    """Each norm's weight as one tile row, bfloat16."""
    widths = config.hidden_size  # the final norm
    for layer in config.layers:
        widths += 4 * config.hidden_size + layer.head_dim * (2 if layer.owns_kv else 1)
        widths += config.hidden_size if config.per_layer_input_size else 0
    return widths * TILE * 2


def _activation_bytes(
    config: ModelConfig, precision: Precision, slots: int, context_length: int
) -> int:
    """What a step passes from kernel to kernel and what it brings, at its largest.

    That is a whole prompt chunk in the last slot: attention covers all slots, in as many waves as
    its rows are chunks.
    """
    d, p = config.hidden_size, config.per_layer_input_size
    products = sum({layer.intermediate_size for layer in config.layers})
    of_heads = {(x.num_heads, x.num_kv_heads, x.head_dim, x.owns_kv) for x in config.layers}
    heads = sum((2 * n + 4 * k) * size for n, k, size, _ in of_heads)
    row = 12 * d + 4 * products + heads + p * (len(config.layers) + 4) + config.vocab_size
    kinds = {layer.kind: layer for layer in config.layers}.values()
    mask_tile = TILE_BYTES[MASKS[precision]]
    attention = sum(
        _attention_bytes(layer, slots, stride(layer, context_length), mask_tile) for layer in kinds
    )
    return row * TILE * 2 + attention


def _attention_bytes(layer: LayerConfig, slots: int, places: int, mask_tile: int) -> int:
    """Of attention's units, masks, selections and sums, in a launch over so many slots."""
    group = layer.num_heads // layer.num_kv_heads
    waves = ceil(TILE / (TILE // group))
    chunks = slots * (1 << (waves - 1).bit_length())
    units, head = chunks * layer.num_kv_heads, layer.head_dim // TILE
    parts = ceil(places / part(layer))
    sums = parts + 1 + (ceil(parts / GROUP) if parts > GROUP else 0)
    masks = chunks * (places + STAGED) // TILE
    selections = chunks * (group + 1) + layer.num_heads * units + 8 * slots
    tiles = units * 2 * head + selections + units * sums * (2 * head + 3)
    return masks * mask_tile + tiles * TILE_BYTES["bf16"]


def _too_big(config: ModelConfig, plan: Plan) -> str:
    board, over = plan.board, -plan.free_bytes
    message = (
        f"{plan.precision} weights, {plan.slots} slots and {plan.context_length} positions take "
        f"{plan.total_bytes / GIB:.2f} GiB, {over / GIB:.2f} more than a {board.name} has "
        f"({board.usable_bytes / GIB:.2f})"
    )
    slots = most_slots(config, board, precision=plan.precision, context_length=plan.context_length)
    if slots:
        return f"{message}: {slots} slots fit"
    for precision in ("bfp8", "mixed"):
        smaller = _lay_out(config, board, precision, 1, plan.context_length)
        if smaller.fits and precision != plan.precision:
            return f"{message}: {precision} weights fit"
    return f"{message}: no precision fits"
