"""The kernels by name, each compiled once for its sizes and spread over the board's cores.

Knows kernels, grids and the scratch that kernels want; knows no model. Import it only after
`kernels.runtime.choose`. Every method returns an operation over device tensors; operands are named
in the order of the call, the outputs last. Sizes are in elements, bf16 where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from device_service.model.tt_tensors import Tensor, Tensors
from kernels.attention import AttentionConfig, attention
from kernels.attention_out import AttentionOutConfig, attention_out
from kernels.bands import bands_for
from kernels.gelu_mul import GELU_TILES, GeluMulConfig, gelu_mul
from kernels.kv_append import KvAppendConfig, kv_append
from kernels.linear import LinearConfig, LinearHpConfig, linear, linear_hp
from kernels.mlp import MlpConfig, geglu_mlp
from kernels.norm import NormConfig, residual_norm, rms_norm
from kernels.norm_linear import NormLinearConfig, norm_linear
from kernels.ple import PleConfig, ple
from kernels.qkv_units import QkvUnitsConfig, qkv_units, units_bands
from kernels.residual_norms import ResidualNormsConfig, residual_norms
from kernels.runtime import TILE, Format, Grid

Operation = Callable[..., None]
SIMULATED_GRID: Grid = (2, 2)
"""Cores that are worth using in the functional simulator, where each costs time."""


@dataclass(frozen=True)
class LayerShape:
    """A layer's heads, as the kernels see them."""

    heads: int
    kv_heads: int
    head_dim: int
    """Padded."""
    mean_over: int
    """Values of a head that are not padding."""
    k_eq_v: bool
    value_norm: bool


class Operations:
    """Compiled kernels of one board."""

    def __init__(self, grid: Grid, tensors: Tensors) -> None:
        """`grid`: columns and rows of cores that kernels may use; at least two of each."""
        self._tensors = tensors
        self._grid = grid

    def build(self, factory: Callable[[Any], Operation], config: Any) -> Operation:
        """One kernel. Whoever wants to know what a model launches overrides this."""
        return factory(config)

    # --- projections ------------------------------------------------------------------------------

    @cache  # noqa: B019 one object a process, as long as the process
    def linear(self, k: int, n: int, weights: Format = "bf16") -> Operation:
        """Operands x [32, k], w [k, n], y [32, n]."""
        grid = self._spread(n // TILE)
        try:
            return self.build(linear_hp, LinearHpConfig(k, n, grid, weights))
        except ValueError:  # the whole K does not fit
            config = self._streamed(k, n, weights)
        streamed = self.build(linear, config)

        def operation(x: Tensor, w: Tensor, y: Tensor) -> None:
            parts = self._tensors.buffer("parts", config.k_split * TILE, n)
            streamed(x, w, parts, y)

        return operation

    @cache  # noqa: B019
    def norm_linear(self, k: int, n: int, weights: Format, eps: float) -> Operation:
        """Operands x [32, k], norm [32, k], w [k, n], y [32, n]: y = RMS(x) · norm @ w."""
        try:
            config = NormLinearConfig(k, n, self._spread(n // TILE), weights, eps)
        except ValueError:  # the row, its norm and two columns of w do not fit
            first, second = self.rms_norm(k, eps), self.linear(k, n, weights)

            def operation(x: Tensor, norm: Tensor, w: Tensor, y: Tensor) -> None:
                normed = self._tensors.buffer("normed", TILE, k)
                first(x, norm, normed)
                second(normed, w, y)

            return operation
        return self.build(norm_linear, config)

    # --- norms ------------------------------------------------------------------------------------

    @cache  # noqa: B019
    def rms_norm(self, d: int, eps: float) -> Operation:
        """Operands x, w, y: [32, d] each."""
        return self.build(rms_norm, NormConfig(d, self._row(d // TILE), eps))

    @cache  # noqa: B019
    def residual_norm(self, d: int, eps: float) -> Operation:
        """Operands a, w, h [32, d], s [32, 32], y [32, d]: y = (h + RMS(a) · w) · s."""
        return self.build(residual_norm, NormConfig(d, self._row(d // TILE), eps))

    @cache  # noqa: B019
    def residual_norms(self, d: int, eps: float) -> Operation:
        """Operands a, w, h, v, y, x [32, d] each: y = h + RMS(a) · w and x = RMS(y) · v."""
        return self.build(residual_norms, ResidualNormsConfig(d, self._row(d // TILE), eps))

    # --- attention --------------------------------------------------------------------------------

    @cache  # noqa: B019
    def qkv_units(self, layer: LayerShape, chunks: int, own_kv: bool, eps: float) -> Operation:
        """Operands qkv, to_units, tokens, norms, cos, sin, units, k, v.

        No k and v without `own_kv`; no v where values are not normed.
        """
        bands = units_bands(layer.kv_heads, chunks, self._grid, own_kv)
        config = QkvUnitsConfig(
            layer.heads,
            layer.kv_heads,
            layer.head_dim,
            chunks,
            bands,
            own_kv=own_kv,
            k_eq_v=layer.k_eq_v,
            eps=eps,
            mean_over=layer.mean_over,
            value_norm=layer.value_norm,
        )
        return self.build(qkv_units, config)

    @cache  # noqa: B019
    def kv_append(self, layer: LayerShape, slots: int, tiles: int) -> Operation:
        """Operands k, v, selection, k_staged, v_staged (changed in place).

        Where values are not normed, v is all of qkv.
        """
        bands = bands_for(layer.kv_heads, slots * tiles, self._grid)
        first = 0 if layer.value_norm else layer.heads + layer.kv_heads
        config = KvAppendConfig(slots, layer.kv_heads, layer.head_dim, bands, tiles, first)
        return self.build(kv_append, config)

    @cache  # noqa: B019
    def attention(
        self, layer: LayerShape, slots: int, waves: int, length: int, stride: int, part: int
    ) -> Operation:
        """Operands q, k, v, k_staged, v_staged, mask, mask_staged, o; see `kernels.attention`."""
        config = AttentionConfig(
            slots, layer.kv_heads, length, stride, layer.head_dim, self._grid, part, waves
        )
        grid = self._block(config.units * max(config.parts, config.items))
        config = replace(config, grid=grid)
        attend = self.build(attention, config)

        def operation(*operands: Tensor) -> None:
            scratch = self._tensors.scratch("sums", *config.scratch_shape)
            attend(*operands[:-1], scratch, operands[-1])

        return operation

    @cache  # noqa: B019
    def attention_out(self, layer: LayerShape, chunks: int, n: int, weights: Format) -> Operation:
        """Operands units [chunks · kv_heads · 32, D], selection, w [heads · D, n], y [32, n]."""
        config = AttentionOutConfig(
            layer.heads,
            layer.kv_heads,
            layer.head_dim,
            chunks,
            n,
            self._block(2 * n // TILE),
            weights,
        )
        out = self.build(attention_out, config)
        identities = self._identities(config.shares)

        def operation(units: Tensor, selection: Tensor, w: Tensor, y: Tensor) -> None:
            rows = self._tensors.buffer("rows", *config.rows_shape)
            parts = self._tensors.buffer("parts", *config.parts_shape)
            out(units, selection, w, identities, rows, parts, y)

        return operation

    # --- feed-forward -----------------------------------------------------------------------------

    @cache  # noqa: B019
    def mlp(self, d: int, f: int, weights: Format) -> Operation:
        """Operands x [32, d], gate, up [d, f], down [f, d], m [32, d]."""
        try:
            config = MlpConfig(d, f, self._block(f // TILE), weights)
        except ValueError:  # d is too wide for a core's memory
            return self._mlp_in_parts(d, f, weights)
        fused = self.build(geglu_mlp, config)
        identities = self._identities(config.shares)

        def operation(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, m: Tensor) -> None:
            act = self._tensors.buffer("act", TILE, f)
            parts = self._tensors.buffer("parts", config.shares * TILE, d)
            fused(x, gate, up, down, identities, act, parts, m)

        return operation

    def _mlp_in_parts(self, d: int, f: int, weights: Format) -> Operation:
        wide, narrow = self.linear(d, f, weights), self.linear(f, d, weights)
        bend = self.build(gelu_mul, GeluMulConfig(f, self._spread(f // TILE)))
        gelu = self._gelu_constants()

        def operation(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, m: Tensor) -> None:
            g, u, act = (self._tensors.buffer(name, TILE, f) for name in ("gate", "up", "act"))
            wide(x, gate, g)
            wide(x, up, u)
            bend(g, u, gelu, act)
            narrow(act, down, m)

        return operation

    @cache  # noqa: B019
    def ple(self, d: int, p: int, eps: float) -> Operation:
        """Operands m, w_m, h, pli, gate, projection, w, s, y; see `kernels.ple`."""
        try:
            config = PleConfig(d, self._block(2 * d // TILE), p, eps)
        except ValueError:  # d is cut into no blocks
            return self._ple_in_parts(d, p, eps)
        block = self.build(ple, config)
        identities = self._identities(max(config.gate_shares, config.projection_shares))

        def operation(*operands: Tensor) -> None:
            buffer = self._tensors.buffer
            h2 = buffer("h2", TILE, d)
            sums = buffer("sums", config.gate_shares * TILE, p)
            act = buffer("per-layer act", TILE, p)
            parts = buffer("parts", config.projection_shares * TILE, d)
            block(*operands[:-1], identities, h2, sums, act, parts, operands[-1])

        return operation

    def _ple_in_parts(self, d: int, p: int, eps: float) -> Operation:
        add, wide, narrow = self.residual_norm(d, eps), self.linear(p, d), self.linear(d, p)
        bend = self.build(gelu_mul, GeluMulConfig(p, self._spread(p // TILE)))
        one = self._tensors.put(torch.ones(TILE, TILE))
        gelu = self._gelu_constants()

        def operation(
            m: Tensor, w_m: Tensor, h: Tensor, pli: Tensor, gate: Tensor, projection: Tensor,
            w: Tensor, s: Tensor, y: Tensor,
        ) -> None:  # fmt: skip
            h2, e = (self._tensors.buffer(name, TILE, d) for name in ("h2", "per-layer e"))
            g, act = (self._tensors.buffer(name, TILE, p) for name in ("gated", "per-layer act"))
            add(m, w_m, h, one, h2)
            narrow(h2, gate, g)
            bend(g, pli, gelu, act)
            wide(act, projection, e)
            add(e, w, h2, s, y)

        return operation

    # --- grids and scratch ------------------------------------------------------------------------

    def _spread(self, work: int) -> Grid:
        """Whole rows of cores, a core for each of so many equal pieces while there are cores."""
        columns, rows = self._grid
        return (min(work, columns), min(rows, -(-work // columns)))

    def _block(self, work: int) -> Grid:
        """As `_spread`, but two columns and two rows at least: kernels that multicast want them."""
        columns, rows = self._grid
        across = max(2, min(columns, -(-work // 2)))
        return (across, max(2, min(rows, -(-work // across))))

    def _row(self, work: int) -> Grid:
        return (min(work, self._grid[0]), 1)

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

    @cache  # noqa: B019
    def _gelu_constants(self) -> Tensor:
        """What `gelu_mul` is given."""
        constants = torch.cat([torch.full((TILE, TILE), x) for x in GELU_TILES], dim=1)
        return self._tensors.put(constants)

    @cache  # noqa: B019
    def _identities(self, count: int) -> Tensor:
        """[32, 32 · count]: identity tiles."""
        return self._tensors.put(torch.eye(TILE).repeat(1, count))
