"""Elementwise kernels over one tile row: sums, products, a scale, a copy, the logits' softcap.

residual_add     y = a + b
elementwise_mul  y = a · b
scalar_mul       y = a · s       s [32, 32] bf16, a tile filled with the scalar: data
copy             y = a           through L1, so that any layout of nodes can be tried with it
softcap          y = c · tanh(a / c)   constants [32, 64] bf16: a tile of 1 / c, a tile of c

a, b, y [32, D] bf16, D a multiple of 32, tiled, in DRAM.
Scalars come in as tiles because two fills in one expression compile wrongly, and because a new
value then needs no new kernel.
Cores: node i of C owns tile columns [i D / C, (i + 1) D / C); no node talks to another.
DRAM: a, b once, y once; the constants' tiles once a node.
L1: two tiles each of a, b, y, one for each constant: at most 16 KB.
Precision: products are made in float32 (`fp32_dest_acc_en`) and rounded once, to nearest; a Dst of
16 bits would cut them off, twice the error. softcap has one: there is no tanh in float32.
Limits: 1 / c is rounded to bf16 (1 / 30 is off by 0.1 %), and so is c; softcap's oracle has the
same rounded constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import whole_tiles
from kernels.runtime import TILE, Grid, ttl, ttnn
from kernels.threads import write_row

Unary = Callable[[ttnn.Tensor, ttnn.Tensor], None]
Binary = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]


@dataclass(frozen=True)
class ElementwiseConfig:
    """Width of the row, and the cores that share it."""

    d: int
    grid: Grid

    def __post_init__(self) -> None:
        whole_tiles("d", self.d)

    @property
    def tiles(self) -> int:
        """Tile columns of the row."""
        return self.d // TILE

    @property
    def nodes(self) -> int:
        """Cores that share them."""
        return self.grid[0] * self.grid[1]


def residual_add(config: ElementwiseConfig) -> Binary:
    """Y = a + b."""
    tiles, grid_x, nodes = config.tiles, config.grid[0], config.nodes

    @ttl.operation(grid=config.grid)
    def operation(a: ttnn.Tensor, b: ttnn.Tensor, y: ttnn.Tensor) -> None:
        a_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=2)
        b_dfb = ttl.make_dataflow_buffer_like(b, shape=(1, 1), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        _read_two(config, a, b, a_dfb, b_dfb)
        write_row(config.grid, config.tiles, y, y_dfb)

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for _ in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                with a_dfb.wait() as a_blk, b_dfb.wait() as b_blk, y_dfb.reserve() as y_blk:
                    y_blk.store(a_blk + b_blk)

    return operation


def elementwise_mul(config: ElementwiseConfig) -> Binary:
    """Y = a · b."""
    tiles, grid_x, nodes = config.tiles, config.grid[0], config.nodes

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(a: ttnn.Tensor, b: ttnn.Tensor, y: ttnn.Tensor) -> None:
        a_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=2)
        b_dfb = ttl.make_dataflow_buffer_like(b, shape=(1, 1), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        _read_two(config, a, b, a_dfb, b_dfb)
        write_row(config.grid, config.tiles, y, y_dfb)

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for _ in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                with a_dfb.wait() as a_blk, b_dfb.wait() as b_blk, y_dfb.reserve() as y_blk:
                    y_blk.store(a_blk * b_blk)

    return operation


def scalar_mul(config: ElementwiseConfig) -> Binary:
    """Y = a · s."""
    tiles, grid_x, nodes = config.tiles, config.grid[0], config.nodes

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(a: ttnn.Tensor, s: ttnn.Tensor, y: ttnn.Tensor) -> None:
        a_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=2)
        s_dfb = ttl.make_dataflow_buffer_like(s, shape=(1, 1), block_count=1)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        write_row(config.grid, config.tiles, y, y_dfb)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with s_dfb.reserve() as s_blk:
                ttl.copy(s[0:1, 0:1], s_blk).wait()
            for t in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                with a_dfb.reserve() as a_blk:
                    ttl.copy(a[0:1, t : t + 1], a_blk).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with s_dfb.wait() as s_blk:
                for _ in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                    with a_dfb.wait() as a_blk, y_dfb.reserve() as y_blk:
                        y_blk.store(a_blk * s_blk)

    return operation


def copy(config: ElementwiseConfig) -> Unary:
    """Y = a."""
    tiles, grid_x, nodes = config.tiles, config.grid[0], config.nodes

    @ttl.operation(grid=config.grid)
    def operation(a: ttnn.Tensor, y: ttnn.Tensor) -> None:
        a_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        _read_one(config, a, a_dfb)
        write_row(config.grid, config.tiles, y, y_dfb)

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for _ in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                with a_dfb.wait() as a_blk, y_dfb.reserve() as y_blk:
                    y_blk.store(a_blk)

    return operation


def softcap(config: ElementwiseConfig) -> Binary:
    """Y = c · tanh(a / c)."""
    tiles, grid_x, nodes = config.tiles, config.grid[0], config.nodes

    @ttl.operation(grid=config.grid)
    def operation(a: ttnn.Tensor, constants: ttnn.Tensor, y: ttnn.Tensor) -> None:
        a_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=2)
        inverse_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        cap_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        write_row(config.grid, config.tiles, y, y_dfb)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with inverse_dfb.reserve() as inverse:
                ttl.copy(constants[0:1, 0:1], inverse).wait()
            with cap_dfb.reserve() as cap:
                ttl.copy(constants[0:1, 1:2], cap).wait()
            for t in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                with a_dfb.reserve() as a_blk:
                    ttl.copy(a[0:1, t : t + 1], a_blk).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with inverse_dfb.wait() as inverse, cap_dfb.wait() as cap:
                for _ in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                    with a_dfb.wait() as a_blk, y_dfb.reserve() as y_blk:
                        y_blk.store(ttl.math.tanh(a_blk * inverse) * cap)

    return operation


# --- Threads that move data: each is defined in the operation that calls its function ------------


def _read_one(config: ElementwiseConfig, a: ttnn.Tensor, a_dfb: ttl.DataflowBuffer) -> None:
    """The node's tiles of a."""
    tiles, grid_x, nodes = config.tiles, config.grid[0], config.nodes

    @ttl.datamovement()
    def read():
        node_x, node_y = ttl.node(dims=2)
        node = node_y * grid_x + node_x
        for t in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
            with a_dfb.reserve() as a_blk:
                ttl.copy(a[0:1, t : t + 1], a_blk).wait()

    del read


def _read_two(
    config: ElementwiseConfig,
    a: ttnn.Tensor,
    b: ttnn.Tensor,
    a_dfb: ttl.DataflowBuffer,
    b_dfb: ttl.DataflowBuffer,
) -> None:
    """The node's tiles of a and b, in turns."""
    tiles, grid_x, nodes = config.tiles, config.grid[0], config.nodes

    @ttl.datamovement()
    def read():
        node_x, node_y = ttl.node(dims=2)
        node = node_y * grid_x + node_x
        for t in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
            with a_dfb.reserve() as a_blk:
                ttl.copy(a[0:1, t : t + 1], a_blk).wait()
            with b_dfb.reserve() as b_blk:
                ttl.copy(b[0:1, t : t + 1], b_blk).wait()

    del read
