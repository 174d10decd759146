"""A step as data for the kernels: who sits where, what each row sees, where keys and values go.

Pure torch on the host; knows no device. The kernels are compiled for sizes only: positions, masks,
rotary tables and selections are tensors made here. A step is one tile row: at most 32 rows. Shapes
use the key of `README.md`.

Attention works on all slots in use at once, one chunk of a slot in each *wave* (a chunk is as many
rows of one sequence as fit a tile with the query heads of a kv head): a step of decode rows is one
wave, a prompt's 32 rows are several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from device_service.model.architecture import LayerConfig
from device_service.model.interface import StepBatch
from device_service.model.rope import rope_tables
from device_service.model.tt_weights import padded_head
from kernels.runtime import TILE
from kernels.units import Chunk, chunks_of, from_units, to_units, unit_mask

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a step."""

    slot: int
    position: int
    token_id: int
    is_read: bool


@dataclass(frozen=True, slots=True)
class Wave:
    """One chunk of each slot in use."""

    to_units: Tensor
    """[chunks · 32, group · 32], one-hot."""
    from_units: Tensor
    """[heads · 32, chunks · K · 32], one-hot."""
    mask: Tensor
    """[chunks · K · 32, S], added to scores."""


@dataclass(frozen=True, slots=True)
class KindStep:
    """What layers of one shape need of a step."""

    cos: Tensor
    """[32, H / 2] of a padded head."""
    sin: Tensor
    places: tuple[tuple[int, int] | None, ...]
    """Of each of 32 rows: its slot and its place in the slot's cache; None for idle rows."""
    waves: tuple[Wave, ...]


def rows_of(batch: StepBatch) -> tuple[Row, ...]:
    """The step's rows, in the order of its spans."""
    return tuple(_rows(batch))


def _rows(batch: StepBatch) -> Iterator[Row]:
    for span in batch.spans:
        first_read = len(span.token_ids) - span.num_readouts
        for i, token_id in enumerate(span.token_ids):
            yield Row(span.slot, span.start + i, token_id, i >= first_read)


def slots_in_use(rows: Sequence[Row], num_slots: int) -> int:
    """How many slots, from 0 on, the step's attention covers: a power of two from 2 on, or all.

    Few different numbers, because each is a program of its own.
    """
    highest = max(row.slot for row in rows)
    return min(num_slots, max(2, 1 << highest.bit_length()))


def kind_step(layer: LayerConfig, rows: Sequence[Row], num_slots: int, length: int) -> KindStep:
    """Prepares a step for layers like `layer`.

    Args:
        layer: any of those with the same heads, window and rotary embedding.
        rows: of the step, at most 32.
        num_slots: slots that attention covers.
        length: S, places of a slot's cache: a multiple of 32.
    """
    cos, sin = _tables(layer, [row.position for row in rows])
    group = layer.num_heads // layer.num_kv_heads
    chunks = chunks_of([row.slot for row in rows], group)
    positions = [row.position for row in rows]
    waves = tuple(
        Wave(
            to_units(wave, group),
            from_units(wave, group, layer.num_kv_heads),
            unit_mask(wave, positions, group, layer.num_kv_heads, length, layer.window),
        )
        for wave in _waves(chunks, num_slots)
    )
    places = [(row.slot, row.position % length) for row in rows]
    return KindStep(cos, sin, (*places, *[None] * (TILE - len(rows))), waves)


def _waves(chunks: Sequence[Chunk], num_slots: int) -> Iterator[list[Chunk | None]]:
    """The n-th chunk of every slot, for each n."""
    of_slot: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        of_slot.setdefault(chunk.sequence, []).append(chunk)
    for n in range(max(map(len, of_slot.values()))):
        wave: list[Chunk | None] = [None] * num_slots
        for slot, mine in of_slot.items():
            wave[slot] = mine[n] if n < len(mine) else None
        yield wave


def _tables(layer: LayerConfig, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cosines and sines of one half of a padded head; what is padded does not turn."""
    half, padded_half = layer.head_dim // 2, padded_head(layer.head_dim) // 2
    cos, sin = torch.ones(TILE, padded_half), torch.zeros(TILE, padded_half)
    all_cos, all_sin = rope_tables(layer.rope, layer.head_dim, torch.tensor(positions))
    cos[: len(positions), :half] = all_cos[:, :half]
    sin[: len(positions), :half] = all_sin[:, :half]
    return cos, sin
