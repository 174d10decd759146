"""The kernels by name, each compiled once for its sizes and spread over the board's cores.

Knows kernels and grids; knows no model. Import it only after `kernels.runtime.choose`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from kernels import runtime
from kernels.attention import AttentionConfig, flash_attention
from kernels.bands import bands_for
from kernels.elementwise import ElementwiseConfig, residual_add
from kernels.gelu_mul import GeluMulConfig, gelu_mul
from kernels.heads import HeadsConfig, reshape_from_heads, reshape_to_heads
from kernels.kv_append import KvAppendConfig, kv_append
from kernels.linear import LinearConfig, LinearHpConfig, linear, linear_hp
from kernels.norm import NormConfig, residual_norm, rms_norm
from kernels.qkv_heads import QkvHeadsConfig, q_heads, qkv_heads
from kernels.runtime import TILE, Format, Grid

Operation = Callable[..., None]
Tensor = Any
"""A tensor of the chosen runtime, in the device's DRAM."""


class Operations:
    """Compiled kernels of one board."""

    def __init__(self, board_grid: Grid, device: Any) -> None:
        """`board_grid`: columns and rows of cores that kernels may use."""
        self._device = device
        self._board_grid = board_grid
        self._grid = _worth_using(board_grid)

    @cache  # noqa: B019 one object a process, as long as the process
    def linear(self, k: int, n: int, weights: Format = "bf16") -> Operation:
        """Operands x [32, k], w [k, n], y [32, n]."""
        grid = self._spread(n // TILE)
        try:
            return linear_hp(LinearHpConfig(k, n, grid, weights))
        except ValueError:  # the whole K does not fit
            config = self._streamed(k, n, weights)
        streamed = linear(config)
        parts = runtime.put(torch.zeros(config.k_split * TILE, n), "bf16", self._device)

        def operation(x: Tensor, w: Tensor, y: Tensor) -> None:
            streamed(x, w, parts, y)

        return operation

    @cache  # noqa: B019
    def rms_norm(self, d: int, eps: float) -> Operation:
        """Operands x, w, y: [32, d] each."""
        return rms_norm(NormConfig(d, self._row(d // TILE), eps))

    @cache  # noqa: B019
    def residual_norm(self, d: int, eps: float) -> Operation:
        """Operands a, w, h [32, d], s [32, 32], y [32, d]: y = (h + RMS(a) · w) · s."""
        return residual_norm(NormConfig(d, self._row(d // TILE), eps))

    @cache  # noqa: B019
    def gelu_mul(self, f: int) -> Operation:
        """Operands gate, up [32, f], constants, y [32, f]."""
        return gelu_mul(GeluMulConfig(f, self._spread(f // TILE)))

    @cache  # noqa: B019
    def residual_add(self, d: int) -> Operation:
        """Operands a, b, y: [32, d] each."""
        return residual_add(ElementwiseConfig(d, self._spread(d // TILE)))

    @cache  # noqa: B019
    def qkv_heads(
        self, heads: int, kv_heads: int, head_dim: int, mean_over: int, k_eq_v: bool, eps: float
    ) -> Operation:
        """Operands qkv, q_norm, k_norm, cos, sin, q, k, v; without own keys, those of `q_heads`."""
        grid = self._at_least(heads + 2 * kv_heads)
        config = QkvHeadsConfig(
            heads, kv_heads, head_dim, grid, k_eq_v=k_eq_v, eps=eps, mean_over=mean_over
        )
        return qkv_heads(config) if kv_heads else q_heads(config)

    @cache  # noqa: B019
    def to_heads(self, heads: int, kv_heads: int, head_dim: int, chunks: int) -> Operation:
        """Operands x [32, heads · D], selection, units [chunks · kv_heads · 32, D]."""
        columns = _divisor(chunks, self._grid[0])
        grid = (columns, kv_heads)
        return reshape_to_heads(HeadsConfig(heads, kv_heads, head_dim, chunks, grid))

    @cache  # noqa: B019
    def from_heads(self, heads: int, kv_heads: int, head_dim: int, chunks: int) -> Operation:
        """Operands units [chunks · kv_heads · 32, D], selection, x [32, heads · D]."""
        grid = (_divisor(heads, self._grid[0]), _divisor(head_dim // TILE, self._grid[1]))
        return reshape_from_heads(HeadsConfig(heads, kv_heads, head_dim, chunks, grid))

    @cache  # noqa: B019
    def kv_append(self, slots: int, kv_heads: int, head_dim: int, length: int) -> Operation:
        """Operands k, v [32, kv_heads · D], selection, k_cache, v_cache (changed in place)."""
        tiles = length // TILE
        bands = bands_for(kv_heads, slots * tiles, self._grid)
        return kv_append(KvAppendConfig(slots, kv_heads, head_dim, bands, tiles))

    @cache  # noqa: B019
    def attention(self, units: int, length: int, head_dim: int) -> Operation:
        """Operands q [units · 32, D], k, v [units · length, D], mask [units · 32, length], o."""
        block = next(b for b in (4, 3, 2, 1) if length // TILE % b == 0)
        grid = self._spread(units)
        return flash_attention(AttentionConfig(units, length, head_dim, grid, block))

    def _spread(self, work: int) -> Grid:
        """A grid for so many equal pieces, none idle but on a whole board."""
        columns, rows = self._grid
        if work >= columns * rows:
            return self._grid
        return (work, 1) if work <= columns else (columns, work // columns)

    def _row(self, work: int) -> Grid:
        return (min(work, self._grid[0]), 1)

    def _at_least(self, nodes: int) -> Grid:
        columns, rows = self._board_grid
        needed = -(-nodes // columns)
        if needed > rows:
            raise ValueError(f"{nodes} heads need more cores than {columns} × {rows}")
        return (min(nodes, columns), needed)

    def _streamed(self, k: int, n: int, weights: Format) -> LinearConfig:
        """Two bands of rows, each half of K, in as few blocks as L1 allows."""
        k_tiles, n_tiles = k // TILE, n // TILE
        columns, rows = self._grid[0], self._grid[1] // 2 * 2
        n_block = next(
            b
            for b in range(1, n_tiles + 1)
            if n_tiles % b == 0 and n_tiles // b <= columns * rows // 2
        )
        for k_block in (b for b in range(k_tiles // 2, 0, -1) if k_tiles % (2 * b) == 0):
            try:
                return LinearConfig(k, n, (columns, rows), k_block, n_block, 2, weights)
            except ValueError:
                continue
        raise ValueError(f"no linear for {k} × {n} on {self._grid}")


def _divisor(n: int, most: int) -> int:
    """The largest divisor of n up to `most`."""
    return next(d for d in range(min(n, most), 0, -1) if n % d == 0)


def _worth_using(board_grid: Grid) -> Grid:
    """All cores of a board; in the functional simulator few, for each costs time there."""
    return board_grid if runtime.kind() == "tt" else (min(4, board_grid[0]), min(2, board_grid[1]))
