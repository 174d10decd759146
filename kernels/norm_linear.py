"""y = RMS(x) · w_norm @ w for one tile row: a norm and the projections behind it, in one launch.

x [32, K] bf16; norm [32, K] bf16, the norm's weight repeated in every row; w [K, N] bf16, bfp8 or
bfp4, projections of the same input side by side (q | k | v, gate | up, or the head); y [32, N]
bf16. K and N multiples of 32, all tiled, in DRAM.

Cores: node (0, 0) reads x and the norm's weight and multicasts both; every node normalises the row
for itself, into L1, then multiplies it with its own columns of w, one at a time with the whole K.
Node i of C owns tile columns [i N / C, (i + 1) N / C). To normalise once and multicast the result
would save nothing: the other nodes could only wait for it, and they wait for their weights anyway.
One data-movement thread streams w from the first moment on; the other, defined first because it
multicasts, brings x and takes y away.
The norm is that of `kernels.norm`: factor in two bf16 tiles, x̂ rounded to bf16 once, as the
reference's; here the whole row is one block, so the factor's column is broadcast over it.
DRAM: x, norm, w once, y once.
L1, in blocks of K/32 bf16 tiles: x, norm, a row (the squares, later x̂), a column of ones, and two
columns of w; with block floats two of its own, and the block of ones later holds the column cast
to bf16. K = 2560 takes 1.00 MB, with bfp8 0.85. bf16 fits up to K = 3744, bfp8 up to 4448, bfp4 up
to 4928; beyond that `rms_norm` and `linear_hp`.
Reaches 1.0 to 1.6 roundings, as the reference would: x̂ rounds to bf16, and where one value of a row
outweighs the rest, its rounding is the result's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import epsilon, fits, weight_format, whole_tiles
from kernels.norm import two_bf16
from kernels.runtime import TILE, TILE_BYTES, Format, Grid, like, ttl, ttnn
from kernels.threads import to_all

Kernel = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]
SINGLE_TILES = 9
"""The sum, 1/K and eps in two parts each, the factor in two, two tiles of y."""


@dataclass(frozen=True)
class NormLinearConfig:
    """Sizes of one `norm_linear`; n counts all the projections side by side."""

    k: int
    n: int
    grid: Grid
    weights: Format = "bf16"
    eps: float = 1e-6

    def __post_init__(self) -> None:
        whole_tiles("k", self.k)
        whole_tiles("n", self.n)
        weight_format(self.weights)
        epsilon(self.eps)
        fits("k", self.k, self.l1_bytes, "use rms_norm and linear_hp")

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        column = 4 * TILE_BYTES["bf16"] + 2 * TILE_BYTES[self.weights]
        return self.k // TILE * column + SINGLE_TILES * TILE_BYTES["bf16"]


def norm_linear(config: NormLinearConfig) -> Kernel:
    """The norm and its projections."""
    return _norm_linear_bf16(config) if config.weights == "bf16" else _norm_linear_cast(config)


def _stream_weights(config: NormLinearConfig, w: ttnn.Tensor, w_dfb: ttl.DataflowBuffer) -> None:
    """The node's own columns, whole K each."""
    k_tiles, n_tiles, grid_x = config.k // TILE, config.n // TILE, config.grid[0]
    nodes = config.grid[0] * config.grid[1]

    @ttl.datamovement()
    def read():
        node_x, node_y = ttl.node(dims=2)
        node = node_y * grid_x + node_x
        for n in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
            with w_dfb.reserve() as w_blk:
                ttl.copy(w[0:k_tiles, n : n + 1], w_blk).wait()

    del read


def _bring_row_and_take_result(
    config: NormLinearConfig,
    x: ttnn.Tensor,
    norm: ttnn.Tensor,
    y: ttnn.Tensor,
    x_dfb: ttl.DataflowBuffer,
    norm_dfb: ttl.DataflowBuffer,
    y_dfb: ttl.DataflowBuffer,
) -> None:
    """The row x and the norm's weight to every node; then the node's own columns of y."""
    k_tiles, n_tiles, (grid_x, grid_y) = config.k // TILE, config.n // TILE, config.grid
    nodes = grid_x * grid_y
    x_net, norm_net = to_all(config.grid), to_all(config.grid)  # a net feeds one buffer

    @ttl.datamovement()
    def write():
        node_x, node_y = ttl.node(dims=2)
        node = node_y * grid_x + node_x
        with x_dfb.reserve() as x_blk:

            def send_x(pipe: ttl.Pipe) -> None:
                ttl.copy(x[0:1, 0:k_tiles], x_blk).wait()
                ttl.copy(x_blk, pipe).wait()

            def receive_x(pipe: ttl.Pipe) -> None:
                ttl.copy(pipe, x_blk).wait()

            x_net.if_src(send_x)
            x_net.if_dst(receive_x)
        with norm_dfb.reserve() as norm_blk:

            def send_norm(pipe: ttl.Pipe) -> None:
                ttl.copy(norm[0:1, 0:k_tiles], norm_blk).wait()
                ttl.copy(norm_blk, pipe).wait()

            def receive_norm(pipe: ttl.Pipe) -> None:
                ttl.copy(pipe, norm_blk).wait()

            norm_net.if_src(send_norm)
            norm_net.if_dst(receive_norm)
        for n in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
            with y_dfb.wait() as y_blk:
                ttl.copy(y_blk, y[0:1, n : n + 1]).wait()

    del write


def _norm_linear_bf16(config: NormLinearConfig) -> Kernel:
    k_tiles, n_tiles, grid_x = config.k // TILE, config.n // TILE, config.grid[0]
    nodes = config.grid[0] * config.grid[1]
    count_high_value, count_low_value = two_bf16(1 / config.k)
    eps_high_value, eps_low_value = two_bf16(config.eps)

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(x: ttnn.Tensor, norm: ttnn.Tensor, w: ttnn.Tensor, y: ttnn.Tensor) -> None:
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_tiles), block_count=1)
        norm_dfb = ttl.make_dataflow_buffer_like(norm, shape=(1, k_tiles), block_count=1)
        row_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_tiles), block_count=1)
        ones_dfb = ttl.make_dataflow_buffer_like(like("bf16"), shape=(k_tiles, 1), block_count=1)
        sum_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        count_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        count_low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        eps_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        eps_low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        high_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(k_tiles, 1), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        _bring_row_and_take_result(config, x, norm, y, x_dfb, norm_dfb, y_dfb)
        _stream_weights(config, w, w_dfb)

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
            with x_dfb.wait() as x_blk:
                with row_dfb.reserve() as squares:
                    squares.store(x_blk * x_blk)
                with row_dfb.wait() as squares, ones_dfb.wait() as ones, sum_dfb.reserve() as total:
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
                        with low_dfb.wait() as low, norm_dfb.wait() as norm_blk:
                            with row_dfb.reserve() as normed:
                                normed.store(
                                    x_blk
                                    * (
                                        ttl.math.broadcast(high, normed, dims=[1])
                                        + ttl.math.broadcast(low, normed, dims=[1])
                                    )
                                    * norm_blk
                                )
            with row_dfb.wait() as normed:
                for _ in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
                    with w_dfb.wait() as w_blk, y_dfb.reserve() as y_blk:
                        y_blk.store(normed @ w_blk)

    return operation


def _norm_linear_cast(config: NormLinearConfig) -> Kernel:
    k_tiles, n_tiles, grid_x = config.k // TILE, config.n // TILE, config.grid[0]
    nodes = config.grid[0] * config.grid[1]
    count_high_value, count_low_value = two_bf16(1 / config.k)
    eps_high_value, eps_low_value = two_bf16(config.eps)

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(x: ttnn.Tensor, norm: ttnn.Tensor, w: ttnn.Tensor, y: ttnn.Tensor) -> None:
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_tiles), block_count=1)
        norm_dfb = ttl.make_dataflow_buffer_like(norm, shape=(1, k_tiles), block_count=1)
        row_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_tiles), block_count=1)
        column_dfb = ttl.make_dataflow_buffer_like(like("bf16"), shape=(k_tiles, 1), block_count=1)
        sum_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        count_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        count_low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        eps_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        eps_low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        high_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(k_tiles, 1), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        _bring_row_and_take_result(config, x, norm, y, x_dfb, norm_dfb, y_dfb)
        _stream_weights(config, w, w_dfb)

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with column_dfb.reserve() as ones:
                ones.store(ttl.math.fill(ones, 1.0))
            with count_dfb.reserve() as count:
                count.store(ttl.math.fill(count, count_high_value))
            with count_low_dfb.reserve() as count_low:
                count_low.store(ttl.math.fill(count_low, count_low_value))
            with eps_dfb.reserve() as eps:
                eps.store(ttl.math.fill(eps, eps_high_value))
            with eps_low_dfb.reserve() as eps_low:
                eps_low.store(ttl.math.fill(eps_low, eps_low_value))
            with x_dfb.wait() as x_blk:
                with row_dfb.reserve() as squares:
                    squares.store(x_blk * x_blk)
                with (
                    row_dfb.wait() as squares,
                    column_dfb.wait() as ones,
                    sum_dfb.reserve() as total,
                ):
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
                        with low_dfb.wait() as low, norm_dfb.wait() as norm_blk:
                            with row_dfb.reserve() as normed:
                                normed.store(
                                    x_blk
                                    * (
                                        ttl.math.broadcast(high, normed, dims=[1])
                                        + ttl.math.broadcast(low, normed, dims=[1])
                                    )
                                    * norm_blk
                                )
            with row_dfb.wait() as normed:
                for _ in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
                    with w_dfb.wait() as w_blk, column_dfb.reserve() as column:
                        column.store(ttl.math.typecast(w_blk, ttnn.bfloat16))
                    with column_dfb.wait() as column, y_dfb.reserve() as y_blk:
                        y_blk.store(normed @ column)

    return operation
