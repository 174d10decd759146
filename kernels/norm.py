"""RMSNorm of one tile row, alone and behind a residual; the root-mean-square idiom of all norms.

rms_norm        y = x · (mean(x²) + eps)^-0.5 · w                     over the last dimension
residual_norm   y = (h + x · (mean(x²) + eps)^-0.5 · w) · s           one launch, one rounding
rms_norm_naive  as one writes it first; kept to show what `rms_norm` mends: 1.9 roundings, not 1.1

x, h, y [32, D] bf16; w [32, D] bf16, the norm's weight repeated in every row; s [32, 32] bf16, a
tile filled with the layer's scalar (with ones where a layer has none). D a multiple of 32.

The sum over a row is a matmul of the squares with a block of ones: it stands in every column of its
tile, so nothing is to be broadcast, and no row meets another (a NaN stays in its row). Then
  factor = (sum · (1/D) + eps)^-0.5     kept as high + low, two bf16 tiles: 16 bits
  y      = x · (high + low) · w         in one expression, so one rounding
`fp32_dest_acc_en` makes Dst hold float32 through a whole expression of bf16 operands. 1/D and eps
are high + low as well, each a fill alone in its store. What is left: a square rounds to bf16 (to
nearest: the errors of a row average out unless one value outweighs the rest), and so does the sum;
the root halves both, so they add at most a half to the one rounding of the result.

Cores: node (0, 0) reads x and multicasts it; every node sums all of it and writes its own share of
the columns, [i D / C, (i + 1) D / C) of D/32 tiles for node i of C. One node is enough where
nothing else waits; a row of nodes shares the last stage and its reads.
DRAM: x twice, w and h once, s once a node; y once.
L1: 3 · D/32 tiles and 16 more; D = 5376 takes 1.06 MB.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import epsilon, fits, whole_tiles
from kernels.runtime import TILE, TILE_BYTES, Grid, like, ttl, ttnn
from kernels.threads import to_all, write_row

Norm = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]
ResidualNorm = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]


@dataclass(frozen=True)
class NormConfig:
    """Width of the row, the norm's epsilon, and the cores that share the columns."""

    d: int
    grid: Grid = (1, 1)
    eps: float = 1e-6

    def __post_init__(self) -> None:
        whole_tiles("d", self.d)
        epsilon(self.eps)
        fits("d", self.d, self.l1_bytes)

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take, in the larger kernel."""
        return (3 * (self.d // TILE) + 16) * TILE_BYTES["bf16"]


def bf16(value: float) -> float:
    """The bf16 number nearest to a positive float."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def two_bf16(value: float) -> tuple[float, float]:
    """High and low: 16 bits of the value together, once a fill has rounded low to bf16."""
    return bf16(value), value - bf16(value)


def _read_norm(
    config: NormConfig,
    x: ttnn.Tensor,
    w: ttnn.Tensor,
    x_dfb: ttl.DataflowBuffer,
    x_tile_dfb: ttl.DataflowBuffer,
    w_dfb: ttl.DataflowBuffer,
) -> None:
    """All of x to every node; then the tiles of x and w that the node owns."""
    tiles, grid_x, nodes = config.d // TILE, config.grid[0], config.grid[0] * config.grid[1]
    x_net = to_all(config.grid)

    @ttl.datamovement()
    def read():
        node_x, node_y = ttl.node(dims=2)
        node = node_y * grid_x + node_x
        with x_dfb.reserve() as x_blk:

            def send(pipe: ttl.Pipe) -> None:
                ttl.copy(x[0:1, 0:tiles], x_blk).wait()
                ttl.copy(x_blk, pipe).wait()

            def receive(pipe: ttl.Pipe) -> None:
                ttl.copy(pipe, x_blk).wait()

            x_net.if_src(send)
            x_net.if_dst(receive)
        for t in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
            with x_tile_dfb.reserve() as x_tile:
                ttl.copy(x[0:1, t : t + 1], x_tile).wait()
            with w_dfb.reserve() as w_tile:
                ttl.copy(w[0:1, t : t + 1], w_tile).wait()

    del read


def rms_norm(config: NormConfig) -> Norm:
    """Y = RMS(x) · w."""
    tiles, grid_x, nodes = config.d // TILE, config.grid[0], config.grid[0] * config.grid[1]
    count_high_value, count_low_value = two_bf16(1 / config.d)
    eps_high_value, eps_low_value = two_bf16(config.eps)

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(x: ttnn.Tensor, w: ttnn.Tensor, y: ttnn.Tensor) -> None:
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, tiles), block_count=1)
        square_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, tiles), block_count=1)
        ones_dfb = ttl.make_dataflow_buffer_like(like("bf16"), shape=(tiles, 1), block_count=1)
        sum_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        count_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        count_low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        eps_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        eps_low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        high_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        x_tile_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=2)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(1, 1), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        _read_norm(config, x, w, x_dfb, x_tile_dfb, w_dfb)

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with ones_dfb.reserve() as ones:
                ones.store(ttl.math.fill(ones, 1.0))
            with count_dfb.reserve() as count:
                count.store(ttl.math.fill(count, count_high_value))
            with count_low_dfb.reserve() as count_low:
                count_low.store(ttl.math.fill(count_low, count_low_value))
            with eps_dfb.reserve() as eps:
                eps.store(ttl.math.fill(eps, eps_high_value))
            with eps_low_dfb.reserve() as eps_low:
                eps_low.store(ttl.math.fill(eps_low, eps_low_value))
            with x_dfb.wait() as x_blk, square_dfb.reserve() as squares:
                squares.store(x_blk * x_blk)
            with square_dfb.wait() as squares, ones_dfb.wait() as ones, sum_dfb.reserve() as total:
                total.store(squares @ ones)
            with (
                sum_dfb.wait() as total,
                count_dfb.wait() as count,
                count_low_dfb.wait() as count_low,
                eps_dfb.wait() as eps,
                eps_low_dfb.wait() as eps_low,
            ):
                with high_dfb.reserve() as high:
                    high.store(ttl.math.rsqrt(total * (count + count_low) + (eps + eps_low)))
                with high_dfb.wait() as high:
                    with low_dfb.reserve() as low:
                        low.store(
                            ttl.math.rsqrt(total * (count + count_low) + (eps + eps_low)) - high
                        )
                    with low_dfb.wait() as low:
                        for _ in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                            with (
                                x_tile_dfb.wait() as x_tile,
                                w_dfb.wait() as w_tile,
                                y_dfb.reserve() as y_tile,
                            ):
                                y_tile.store(x_tile * (high + low) * w_tile)

        write_row(config.grid, tiles, y, y_dfb)

    return operation


def _read_residual(
    config: NormConfig,
    x: ttnn.Tensor,
    w: ttnn.Tensor,
    h: ttnn.Tensor,
    s: ttnn.Tensor,
    x_dfb: ttl.DataflowBuffer,
    x_tile_dfb: ttl.DataflowBuffer,
    w_dfb: ttl.DataflowBuffer,
    h_dfb: ttl.DataflowBuffer,
    s_dfb: ttl.DataflowBuffer,
) -> None:
    """As `_read_norm`; besides, the scalar and the tiles of h."""
    tiles, grid_x, nodes = config.d // TILE, config.grid[0], config.grid[0] * config.grid[1]
    x_net = to_all(config.grid)

    @ttl.datamovement()
    def read():
        node_x, node_y = ttl.node(dims=2)
        node = node_y * grid_x + node_x
        with x_dfb.reserve() as x_blk:

            def send(pipe: ttl.Pipe) -> None:
                ttl.copy(x[0:1, 0:tiles], x_blk).wait()
                ttl.copy(x_blk, pipe).wait()

            def receive(pipe: ttl.Pipe) -> None:
                ttl.copy(pipe, x_blk).wait()

            x_net.if_src(send)
            x_net.if_dst(receive)
        with s_dfb.reserve() as scalar:
            ttl.copy(s[0:1, 0:1], scalar).wait()
        for t in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
            with x_tile_dfb.reserve() as x_tile:
                ttl.copy(x[0:1, t : t + 1], x_tile).wait()
            with w_dfb.reserve() as w_tile:
                ttl.copy(w[0:1, t : t + 1], w_tile).wait()
            with h_dfb.reserve() as h_tile:
                ttl.copy(h[0:1, t : t + 1], h_tile).wait()

    del read


def residual_norm(config: NormConfig) -> ResidualNorm:
    """Y = (h + RMS(x) · w) · s; x is what attention or the feed-forward gave."""
    tiles, grid_x, nodes = config.d // TILE, config.grid[0], config.grid[0] * config.grid[1]
    count_high_value, count_low_value = two_bf16(1 / config.d)
    eps_high_value, eps_low_value = two_bf16(config.eps)

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(
        x: ttnn.Tensor, w: ttnn.Tensor, h: ttnn.Tensor, s: ttnn.Tensor, y: ttnn.Tensor
    ) -> None:
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, tiles), block_count=1)
        square_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, tiles), block_count=1)
        ones_dfb = ttl.make_dataflow_buffer_like(like("bf16"), shape=(tiles, 1), block_count=1)
        sum_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        count_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        count_low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        eps_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        eps_low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        high_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        x_tile_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=2)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(1, 1), block_count=2)
        h_dfb = ttl.make_dataflow_buffer_like(h, shape=(1, 1), block_count=2)
        s_dfb = ttl.make_dataflow_buffer_like(s, shape=(1, 1), block_count=1)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        _read_residual(config, x, w, h, s, x_dfb, x_tile_dfb, w_dfb, h_dfb, s_dfb)

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with ones_dfb.reserve() as ones:
                ones.store(ttl.math.fill(ones, 1.0))
            with count_dfb.reserve() as count:
                count.store(ttl.math.fill(count, count_high_value))
            with count_low_dfb.reserve() as count_low:
                count_low.store(ttl.math.fill(count_low, count_low_value))
            with eps_dfb.reserve() as eps:
                eps.store(ttl.math.fill(eps, eps_high_value))
            with eps_low_dfb.reserve() as eps_low:
                eps_low.store(ttl.math.fill(eps_low, eps_low_value))
            with x_dfb.wait() as x_blk, square_dfb.reserve() as squares:
                squares.store(x_blk * x_blk)
            with square_dfb.wait() as squares, ones_dfb.wait() as ones, sum_dfb.reserve() as total:
                total.store(squares @ ones)
            with (
                sum_dfb.wait() as total,
                count_dfb.wait() as count,
                count_low_dfb.wait() as count_low,
                eps_dfb.wait() as eps,
                eps_low_dfb.wait() as eps_low,
            ):
                with high_dfb.reserve() as high:
                    high.store(ttl.math.rsqrt(total * (count + count_low) + (eps + eps_low)))
                with high_dfb.wait() as high:
                    with low_dfb.reserve() as low:
                        low.store(
                            ttl.math.rsqrt(total * (count + count_low) + (eps + eps_low)) - high
                        )
                    with low_dfb.wait() as low, s_dfb.wait() as scalar:
                        for _ in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                            with (
                                x_tile_dfb.wait() as x_tile,
                                w_dfb.wait() as w_tile,
                                h_dfb.wait() as h_tile,
                                y_dfb.reserve() as y_tile,
                            ):
                                y_tile.store((h_tile + x_tile * (high + low) * w_tile) * scalar)

        write_row(config.grid, tiles, y, y_dfb)

    return operation


def rms_norm_naive(config: NormConfig) -> Norm:
    """As one writes it first: 1 / D, eps and the factor in bf16, two fills in one expression.

    Those fills compile rightly only because the block is one tile; with more the compiler mixes
    them up. Reaches 1.9 roundings at D = 2560 where `rms_norm` reaches 1.1.
    """
    tiles, grid_x, nodes = config.d // TILE, config.grid[0], config.grid[0] * config.grid[1]
    count, eps = 1 / config.d, config.eps

    @ttl.operation(grid=config.grid)
    def operation(x: ttnn.Tensor, w: ttnn.Tensor, y: ttnn.Tensor) -> None:
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, tiles), block_count=1)
        square_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, tiles), block_count=1)
        ones_dfb = ttl.make_dataflow_buffer_like(like("bf16"), shape=(tiles, 1), block_count=1)
        sum_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        factor_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        x_tile_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=2)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(1, 1), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        _read_norm(config, x, w, x_dfb, x_tile_dfb, w_dfb)

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with ones_dfb.reserve() as ones:
                ones.store(ttl.math.fill(ones, 1.0))
            with x_dfb.wait() as x_blk, square_dfb.reserve() as squares:
                squares.store(x_blk * x_blk)
            with square_dfb.wait() as squares, ones_dfb.wait() as ones, sum_dfb.reserve() as total:
                total.store(squares @ ones)
            with sum_dfb.wait() as total, factor_dfb.reserve() as factor:
                factor.store(
                    ttl.math.rsqrt(
                        total * ttl.math.fill(factor, count) + ttl.math.fill(factor, eps)
                    )
                )
            with factor_dfb.wait() as factor:
                for _ in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                    with (
                        x_tile_dfb.wait() as x_tile,
                        w_dfb.wait() as w_tile,
                        y_dfb.reserve() as y_tile,
                    ):
                        y_tile.store(x_tile * factor * w_tile)

        write_row(config.grid, tiles, y, y_dfb)

    return operation
