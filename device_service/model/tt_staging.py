"""Where each slot's keys and values lie: the newest in a staging ring, the rest in the cache.

TT-Lang finds no address from data, so appending to a long cache would read and write all of it. A
step therefore appends to *staging*, four tile rows a slot and kv head: position p at place p % 128.
A tile row that is complete is *flushed* to the cache, whole, to place p % stride, two tile rows
later. A row at position p sees the tile row of p and the one before it in staging and all else in
the cache: a rule of p alone, so that the order in which attention adds up, and with it every bit of
the result, does not depend on how a sequence was cut into steps. A slot that goes back further than
staging reaches has tile rows *loaded* back.

Plain integers; knows no tensors. Sizes use the key of `README.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from device_service.model.architecture import LayerConfig
from kernels.runtime import TILE

STAGED_TILES = 4
STAGED = STAGED_TILES * TILE
"""Places of a slot in staging."""
_BLOCK = 2 * TILE
"""The least that attention reads at a time: caches are whole blocks long."""
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
"""Places of a cache that attention reads: a program is compiled for each that is needed."""
_RING_PART, _FULL_PART = 128, 1024


def part(layer: LayerConfig) -> int:
    """Places of a cache that one core adds up. Never a matter of the step: see above."""
    return _FULL_PART if layer.window is None else _RING_PART


def stride(layer: LayerConfig, context_length: int) -> int:
    """Places that a slot has in a layer's cache: its window, or the whole context."""
    places = context_length if layer.window is None else min(layer.window - 1, context_length)
    whole = part(layer) if places > part(layer) else _BLOCK
    return max(_BLOCK, -(-places // whole) * whole)


def cached(position: int) -> int:
    """Positions below are seen in the cache by the row at `position`, the others in staging."""
    return max(0, (position // TILE - 1) * TILE)


def length_read(last_position: int, stride: int) -> int:
    """Places that attention reads in a step whose last row is at `last_position`."""
    needed = cached(last_position)
    return min(stride, next(n for n in LENGTHS if n >= needed or n >= stride))


@dataclass(frozen=True, slots=True)
class TileMove:
    """One tile row of a slot, of every layer with keys, between staging and cache."""

    slot: int
    tile: int
    """Positions 32 · tile and the 31 after it."""


@dataclass(frozen=True, slots=True)
class Moves:
    """What has to be copied before a step, in this order."""

    loads: tuple[TileMove, ...]
    """From cache to staging."""
    flushes: tuple[TileMove, ...]
    """From staging to cache."""


class Staging:
    """Follows every slot."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self.clear()

    def clear(self) -> None:
        """All slots are empty."""
        self._cached_tiles = [0] * self._num_slots
        self._held = [[-1] * STAGED_TILES for _ in range(self._num_slots)]

    def place(self, spans: Iterable[tuple[int, int, int]]) -> Moves:
        """The spans are about to run.

        Args:
            spans: slot, first and last position of each; at most 32 positions.
        """
        loads: list[TileMove] = []
        flushes: list[TileMove] = []
        for slot, first, last in spans:
            held, first_tile, last_tile = self._held[slot], first // TILE, last // TILE
            before = [first_tile - 1] if first_tile else []
            before += [first_tile] if first % TILE else []
            for tile in before:
                if held[tile % STAGED_TILES] != tile:
                    loads.append(TileMove(slot, tile))
            for tile in (*before, *range(first_tile, last_tile + 1)):
                held[tile % STAGED_TILES] = tile
            cached_tiles = min(self._cached_tiles[slot], first_tile)
            flushes += [TileMove(slot, tile) for tile in range(cached_tiles, last_tile - 1)]
            self._cached_tiles[slot] = max(cached_tiles, last_tile - 1)
        return Moves(tuple(loads), tuple(flushes))


def staged_row(move: TileMove, head: int, kv_heads: int) -> int:
    """The tile row of staging [slots · K · 128, H] that holds it."""
    return (move.slot * kv_heads + head) * STAGED_TILES + move.tile % STAGED_TILES


def cached_row(move: TileMove, head: int, kv_heads: int, stride: int) -> int:
    """The tile row of a cache [slots · K · stride, H] that holds it."""
    tiles = stride // TILE
    return (move.slot * kv_heads + head) * tiles + move.tile % tiles
