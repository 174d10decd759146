"""Rows of tokens to attention's units and back: one-hot selections, multiplied; exact.

What a unit, a chunk and a group are, and which row lies where: `units.py`.

reshape_to_heads    x [32, heads · D] → units [U · 32, D]
    units[c, g] = Σ_j to_units[c, j] @ x[head g · group + j]    to_units [chunks · 32, group · 32]
reshape_from_heads  units [U · 32, D] → x [32, heads · D]
    x[head h] = Σ_u from_units[h, u] @ units[u]                 from_units [heads · 32, U · 32]

All bf16, in tiles [32, 32]. The selections are data, built on the host by `units.py`, whenever a
row changes its sequence; no kernel knows who sits where. Each value is multiplied by one 1 and
added to zeros, so nothing is rounded.

to heads    Grid rows belong to kv heads in equal bands; the first node of a band reads the group's
            heads one by one and multicasts them to its band. Every node makes one unit a pass:
            `+=` into one reserved block, the only store in its loop. DRAM: x once a pass,
            the selections kv_heads times, units once: 0.1 + 0.5 + 1 MB for E4B, 32 chunks, D 256.
from heads  Grid columns share the heads, grid rows the tile columns of D. The first node of a row
            reads its columns of all units and multicasts them along the row; the first node of a
            column reads its heads' selections and multicasts them down. One product over all
            units a head. DRAM: units once, selections once, x once: 1 + 1 + 0.1 MB as above.
            (A kv head's rows are zero in the other kv heads' units: with 2, half of the products.
            That keeps the order of units out of the kernel.)
L1: see `to_l1_bytes`, `from_l1_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.bands import Bands, to_bands
from kernels.limits import fits, whole_tiles
from kernels.runtime import TILE, TILE_BYTES, Grid, ttl, ttnn

Kernel = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]

MAX_CHUNKS = 512
"""Of a step: 32 slots, a chunk of two rows in each of 16 waves."""


@dataclass(frozen=True)
class HeadsConfig:
    """Heads of a layer, chunks that a step may have, and the cores."""

    heads: int
    kv_heads: int
    head_dim: int
    chunks: int
    grid: Grid

    def __post_init__(self) -> None:
        whole_tiles("head_dim", self.head_dim)
        if self.kv_heads <= 0 or self.heads % self.kv_heads or TILE % self.group:
            raise ValueError(
                f"heads = {self.heads}, kv_heads = {self.kv_heads}: a group must divide {TILE}"
            )
        if not 0 < self.chunks <= MAX_CHUNKS:
            raise ValueError(f"chunks = {self.chunks}: 1 to {MAX_CHUNKS}")

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.heads // self.kv_heads

    @property
    def units(self) -> int:
        """Of 32 rows."""
        return self.chunks * self.kv_heads

    @property
    def band(self) -> int:
        """Nodes that make one kv head's units."""
        return self.grid[0] * self.grid[1] // self.kv_heads

    @property
    def columns(self) -> int:
        """Tile columns that one node of `reshape_from_heads` makes."""
        return self.head_dim // TILE // self.grid[1]

    @property
    def to_l1_bytes(self) -> int:
        """Dataflow buffers of one core of `reshape_to_heads`."""
        return (4 * self.head_dim // TILE + 2) * TILE_BYTES["bf16"]

    @property
    def from_l1_bytes(self) -> int:
        """Dataflow buffers of one core of `reshape_from_heads`."""
        return ((self.columns + 2) * self.units + 2 * self.columns) * TILE_BYTES["bf16"]


def reshape_to_heads(config: HeadsConfig) -> Kernel:
    """Operands: x, to_units, units."""
    if config.grid[1] % config.kv_heads:
        raise ValueError(f"grid = {config.grid}: kv_heads = {config.kv_heads} must divide its rows")
    if config.band < 2:  # a multicast to one node has no flow control
        raise ValueError(f"grid = {config.grid}: a band of {config.band} nodes, at least 2")
    if config.chunks % config.band:
        raise ValueError(
            f"chunks = {config.chunks} do not spread over bands of {config.band} nodes"
        )
    fits("head_dim", config.head_dim, config.to_l1_bytes)
    width, group, kv_heads, band = (
        config.head_dim // TILE,
        config.group,
        config.kv_heads,
        config.band,
    )
    grid_x, band_y, passes = config.grid[0], config.grid[1] // kv_heads, config.chunks // band

    @ttl.operation(grid=config.grid)
    def operation(x: ttnn.Tensor, selection: ttnn.Tensor, units: ttnn.Tensor) -> None:
        to_band = to_bands(Bands((grid_x, band_y), (1, kv_heads)))
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, width), block_count=2)
        pick_dfb = ttl.make_dataflow_buffer_like(selection, shape=(1, 1), block_count=2)
        unit_dfb = ttl.make_dataflow_buffer_like(units, shape=(1, width), block_count=2)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            kv_head, place = node_y // band_y, (node_y % band_y) * grid_x + node_x
            for p in range(passes):
                chunk = p * band + place
                for j in range(group):
                    head = (kv_head * group + j) * width
                    with x_dfb.reserve() as x_blk:

                        def send(pipe: ttl.Pipe) -> None:
                            ttl.copy(x[0:1, head : head + width], x_blk).wait()
                            ttl.copy(x_blk, pipe).wait()

                        def receive(pipe: ttl.Pipe) -> None:
                            ttl.copy(pipe, x_blk).wait()

                        to_band.if_src(send)
                        to_band.if_dst(receive)
                    with pick_dfb.reserve() as pick:
                        ttl.copy(selection[chunk : chunk + 1, j : j + 1], pick).wait()

        @ttl.compute()
        def compute():
            for _ in range(passes):
                with unit_dfb.reserve() as unit:
                    for _ in range(group):
                        with x_dfb.wait() as x_blk, pick_dfb.wait() as pick:
                            unit += pick @ x_blk

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            kv_head, place = node_y // band_y, (node_y % band_y) * grid_x + node_x
            for p in range(passes):
                u = (p * band + place) * kv_heads + kv_head
                with unit_dfb.wait() as unit:
                    ttl.copy(unit, units[u : u + 1, 0:width]).wait()

    return operation


def reshape_from_heads(config: HeadsConfig) -> Kernel:
    """Operands: units, from_units, x."""
    grid_x, grid_y = config.grid
    if min(config.grid) < 2:  # a multicast to one node has no flow control
        raise ValueError(f"grid = {config.grid}: at least 2 × 2")
    if config.heads % grid_x:
        raise ValueError(f"grid = {config.grid}: its columns must divide heads = {config.heads}")
    if config.head_dim // TILE % grid_y:
        raise ValueError(
            f"grid = {config.grid}: its rows must divide head_dim = {config.head_dim}'s tiles"
        )
    fits("chunks", config.chunks, config.from_l1_bytes)
    width, num_units, columns = config.head_dim // TILE, config.units, config.columns
    heads_each = config.heads // grid_x

    @ttl.operation(grid=config.grid)
    def operation(units: ttnn.Tensor, selection: ttnn.Tensor, x: ttnn.Tensor) -> None:
        along_rows = ttl.PipeNet(
            [ttl.Pipe(src=(0, j), dst=(slice(0, grid_x), slice(j, j + 1))) for j in range(grid_y)]
        )
        down_columns = ttl.PipeNet(
            [ttl.Pipe(src=(i, 0), dst=(slice(i, i + 1), slice(0, grid_y))) for i in range(grid_x)]
        )
        units_dfb = ttl.make_dataflow_buffer_like(units, shape=(num_units, columns), block_count=1)
        pick_dfb = ttl.make_dataflow_buffer_like(selection, shape=(1, num_units), block_count=2)
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, columns), block_count=2)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            t = node_y * columns
            with units_dfb.reserve() as units_blk:

                def send_units(pipe: ttl.Pipe) -> None:
                    ttl.copy(units[0:num_units, t : t + columns], units_blk).wait()
                    ttl.copy(units_blk, pipe).wait()

                def receive_units(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, units_blk).wait()

                along_rows.if_src(send_units)
                along_rows.if_dst(receive_units)
            for i in range(heads_each):
                head = node_x * heads_each + i
                with pick_dfb.reserve() as pick:

                    def send(pipe: ttl.Pipe) -> None:
                        ttl.copy(selection[head : head + 1, 0:num_units], pick).wait()
                        ttl.copy(pick, pipe).wait()

                    def receive(pipe: ttl.Pipe) -> None:
                        ttl.copy(pipe, pick).wait()

                    down_columns.if_src(send)
                    down_columns.if_dst(receive)

        @ttl.compute()
        def compute():
            with units_dfb.wait() as units_blk:
                for _ in range(heads_each):
                    with pick_dfb.wait() as pick, x_dfb.reserve() as x_blk:
                        x_blk.store(pick @ units_blk)

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            for i in range(heads_each):
                t = (node_x * heads_each + i) * width + node_y * columns
                with x_dfb.wait() as x_blk:
                    ttl.copy(x_blk, x[0:1, t : t + columns]).wait()

    return operation
