"""Keys and values on the device: a layer's cache and staging, and what moves between them.

Knows device tensors and the moves that `tt_staging` decides; knows no kernels. Sizes use the key of
`README.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from device_service.model.architecture import LayerConfig
from device_service.model.tt_staging import (
    STAGED,
    Moves,
    TileMove,
    cached_row,
    staged_row,
    stride,
)
from device_service.model.tt_tensors import Tensor, Tensors
from device_service.model.tt_weight_reader import padded_head
from kernels.runtime import TILE


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keys and values of one layer, all slots, padded heads."""

    k: Tensor
    """[slots · K · S, H]"""
    v: Tensor
    k_staged: Tensor
    """[slots · K · 128, H]"""
    v_staged: Tensor
    stride: int
    """S"""


class Caches:
    """All layers that own keys and values."""

    def __init__(
        self,
        layers: Sequence[LayerConfig],
        num_slots: int,
        context_length: int,
        tensors: Tensors,
    ) -> None:
        self._layers = [layer for layer in layers if layer.owns_kv]
        self._num_slots = num_slots
        self._tensors = tensors
        self._of: dict[int, LayerCache] = {}
        for layer in self._layers:
            places, size = stride(layer, context_length), padded_head(layer.head_dim)
            rows = num_slots * layer.num_kv_heads
            self._of[layer.index] = LayerCache(
                k=tensors.zeros(rows * places, size),
                v=tensors.zeros(rows * places, size),
                k_staged=tensors.zeros(rows * STAGED, size),
                v_staged=tensors.zeros(rows * STAGED, size),
                stride=places,
            )

    def of(self, layer: LayerConfig) -> LayerCache:
        """What the layer's queries see: its own, or an earlier layer's."""
        return self._of[layer.kv_source]

    def move(self, moves: Moves) -> None:
        """Copies tile rows between staging and cache, in every layer."""
        for layer in self._layers:
            cache = self._of[layer.index]
            if moves.loads:
                table = self._table(layer, moves.loads, cache, to_cache=False)
                self._tensors.copy_tile_rows(cache.k_staged, cache.k, table)
                self._tensors.copy_tile_rows(cache.v_staged, cache.v, table)
            if moves.flushes:
                table = self._table(layer, moves.flushes, cache, to_cache=True)
                self._tensors.copy_tile_rows(cache.k, cache.k_staged, table)
                self._tensors.copy_tile_rows(cache.v, cache.v_staged, table)

    def _table(
        self, layer: LayerConfig, moves: Iterable[TileMove], cache: LayerCache, *, to_cache: bool
    ) -> torch.Tensor:
        """int32: where each tile row of the source goes; −1: nowhere."""
        heads = layer.num_kv_heads
        sources = STAGED if to_cache else cache.stride
        table = torch.full((self._num_slots * heads * sources // TILE,), -1, dtype=torch.int32)
        for move in moves:
            for head in range(heads):
                staged = staged_row(move, head, heads)
                cached = cached_row(move, head, heads, cache.stride)
                source, target = (staged, cached) if to_cache else (cached, staged)
                table[source] = target
        return table
