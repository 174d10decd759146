"""A step as data for the kernels: who sits where, what each row sees, where keys and values go.

Pure torch on the host; knows no device. The kernels are compiled for sizes only: positions, masks,
rotary tables and selections are tensors made here. A step is one tile row: at most 32 rows. Shapes
use the key of `README.md`.

A *chunk* is as many rows of one sequence as fit a tile with the query heads of a kv head; a *wave*
is a chunk or none of each slot that attention covers. A step of decode rows is one wave; the 32
rows of a prompt are several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from device_service.model.architecture import LayerConfig
from device_service.model.interface import StepBatch
from device_service.model.rope import rope_tables
from device_service.model.tt_staging import STAGED, STAGED_TILES, length_read, stride
from device_service.model.tt_weight_reader import padded_head
from kernels.kv_append import append_selection
from kernels.runtime import TILE
from kernels.units import (
    Chunk,
    View,
    cache_mask,
    chunks_of,
    from_units,
    staged_mask,
    to_units,
    tokens_of,
    views,
)

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a step."""

    slot: int
    position: int
    token_id: int
    is_read: bool


@dataclass(frozen=True, slots=True)
class KindStep:
    """What layers of one shape need of a step. Chunks are ordered wave by wave, slot by slot."""

    slots: int
    """That attention covers, from 0 on."""
    waves: int
    length: int
    """S: places of a slot's cache that attention reads."""
    tables: Mapping[str, Tensor]
    """By name, what the kernels are given:
    cos, sin: [32, H / 2] of a padded head;
    append: [slots · 128, 64], the selection of `kv_append` into staging;
    to_units: [chunks · 32, group · 32], one-hot;
    tokens: [(chunks + 1) · 32, 32], one-hot;
    from_units: [N · 32, chunks · K · 32], one-hot."""
    mask_staged: Tensor
    """[chunks · 32, 128], added to the scores of staged positions."""
    views: tuple[tuple[View, ...], ...]
    """What decides the mask of the cached ones: of a long cache, the same for some 32 steps."""
    group: int
    """Query heads a KV head."""
    stride: int
    """Places that a slot's cache has."""

    def mask(self) -> Tensor:
        """[chunks · 32, S], added to the scores of cached positions."""
        return cache_mask(self.views, self.group, self.length, self.stride)

    @property
    def mask_shape(self) -> tuple[int, int]:
        """Its rows and columns."""
        return self.chunks * TILE, self.length

    @property
    def chunks(self) -> int:
        """Empty ones included."""
        return self.waves * self.slots

    @property
    def shape(self) -> tuple[int, int, int]:
        """What decides which programs run."""
        return self.slots, self.waves, self.length


def rows_of(batch: StepBatch) -> tuple[Row, ...]:
    """The step's rows, in the order of its spans."""
    return tuple(_rows(batch))


def _rows(batch: StepBatch) -> Iterator[Row]:
    for span in batch.spans:
        first_read = len(span.token_ids) - span.num_readouts
        for i, token_id in enumerate(span.token_ids):
            yield Row(span.slot, span.start + i, token_id, i >= first_read)


def slots_in_use(rows: Sequence[Row], num_slots: int) -> int:
    """How many slots, from 0 on, the step's attention covers: a power of two, or all.

    Few different numbers, because each is a program of its own.
    """
    highest = max(row.slot for row in rows)
    return min(num_slots, 1 << highest.bit_length())


def kind_step(
    layer: LayerConfig,
    rows: Sequence[Row],
    num_slots: int,
    context_length: int,
) -> KindStep:
    """Prepares a step for layers like `layer`.

    Args:
        layer: any of those with the same heads, window and rotary embedding.
        rows: of the step, at most 32.
        num_slots: that the caches have.
        context_length: positions that a slot may have.
    """
    slots = slots_in_use(rows, num_slots)
    positions = [row.position for row in rows]
    ring = stride(layer, context_length)
    length = length_read(max(positions), ring)
    group = layer.num_heads // layer.num_kv_heads
    waves = _waves(chunks_of([row.slot for row in rows], group), slots)
    num_waves = 1 << (len(waves) - 1).bit_length()  # few different numbers, as of slots
    chunks = [*(chunk for wave in waves for chunk in wave)]
    chunks += [None] * (num_waves * slots - len(chunks))
    cos, sin = _tables(layer, positions)
    seen = views(chunks, positions, layer.window)
    places = [(row.slot, row.position % STAGED) for row in rows]
    tables = {
        "cos": cos,
        "sin": sin,
        "append": append_selection(places, slots, STAGED_TILES),
        "to_units": to_units(chunks, group),
        "tokens": tokens_of(chunks, group),
        "from_units": from_units(chunks, group, layer.num_kv_heads),
    }
    staged = staged_mask(seen, chunks, positions, group)
    return KindStep(slots, num_waves, length, tables, staged, seen, group, ring)


def _waves(chunks: Sequence[Chunk], num_slots: int) -> list[list[Chunk | None]]:
    """The n-th chunk of every slot, for each n."""
    of_slot: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        of_slot.setdefault(chunk.sequence, []).append(chunk)
    waves: list[list[Chunk | None]] = []
    for n in range(max(map(len, of_slot.values()))):
        wave: list[Chunk | None] = [None] * num_slots
        for slot, mine in of_slot.items():
            wave[slot] = mine[n] if n < len(mine) else None
        waves.append(wave)
    return waves


def _tables(layer: LayerConfig, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cosines and sines of one half of a padded head; what is padded does not turn."""
    half, padded_half = layer.head_dim // 2, padded_head(layer.head_dim) // 2
    cos, sin = torch.ones(TILE, padded_half), torch.zeros(TILE, padded_half)
    all_cos, all_sin = rope_tables(layer.rope, layer.head_dim, torch.tensor(positions))
    cos[: len(positions), :half] = all_cos[:, :half]
    sin[: len(positions), :half] = all_sin[:, :half]
    return cos, sin
