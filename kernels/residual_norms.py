"""The residual behind attention and the norm before the feed-forward: two outputs, one launch.

    h' = h + RMS(a) · w1        x = RMS(h') · w2        RMS(v) = v · (mean(v²) + eps)^-0.5

a, h, h_out, x_out [32, D] bf16; w1, w2 [32, D] bf16, a norm's weight repeated in every row. x is
made of the h' that was rounded to bf16, so both outputs have the bits that `residual_norm` and then
`rms_norm` would give. D a multiple of 32.

Two turns of the same work, `kernels.norm`'s: node (0, 0) reads a row (a, then h') and multicasts
it, every node sums all of its squares and knows the factor, two bf16 tiles of 16 bits together;
then each node makes its own columns, [i D / C, (i + 1) D / C) of D/32 tiles for node i of C. Its
tiles of h' go to DRAM and stay in L1 besides, for its second turn. Between the turns a barrier, a
multicast of one tile which each node asks for when its tiles of h' are written: see `mlp`.

h_out may be h: a tile of h is read by its owner alone, and before that writes h'. So may x_out be
a: a is last read in the first turn, and x is first written behind the barrier.

Cores: any grid. A row of nodes is enough: as many columns each as there are nodes in a row less.
DRAM: a twice; h, w1 (but for a tile), w2 once; h' once, read once more; x once.
L1: 3 blocks of D/32 tiles, D/32 / C and 18 more: D = 5376 takes 1.11 MB on 8 nodes; one node takes
up to D = 5280. The same on all boards.
Reaches 1.2 roundings in h' and 2.4 in x, whose input may be off by one of h' already; bound 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import epsilon, fits, whole_tiles
from kernels.norm import two_bf16
from kernels.runtime import N150_L1_BYTES, TILE, TILE_BYTES, Grid, like, ttl, ttnn
from kernels.threads import to_all

ResidualNorms = Callable[
    [ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None
]
_SMALL_TILES = 18
"""The barrier's, the sum, four constants, the factor's two; two of each of five in and out."""


@dataclass(frozen=True)
class ResidualNormsConfig:
    """Width of the row, the epsilon of both norms, and the cores that share the columns."""

    d: int
    grid: Grid = (1, 1)
    eps: float = 1e-6

    def __post_init__(self) -> None:
        whole_tiles("d", self.d)
        epsilon(self.eps)
        fits("d", self.d, self.l1_bytes, "more nodes", N150_L1_BYTES)

    @property
    def kept(self) -> int:
        """The most tiles of h' that a node has."""
        return -(-(self.d // TILE) // (self.grid[0] * self.grid[1]))

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        return (3 * (self.d // TILE) + self.kept + _SMALL_TILES) * TILE_BYTES["bf16"]


def residual_norms(config: ResidualNormsConfig) -> ResidualNorms:
    """Operands: a, w1, h, w2, h_out, x_out; h_out may be h, x_out may be a."""
    tiles, grid_x, nodes = config.d // TILE, config.grid[0], config.grid[0] * config.grid[1]
    kept = config.kept
    count_high_value, count_low_value = two_bf16(1 / config.d)
    eps_high_value, eps_low_value = two_bf16(config.eps)

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(
        a: ttnn.Tensor,
        w1: ttnn.Tensor,
        h: ttnn.Tensor,
        w2: ttnn.Tensor,
        h_out: ttnn.Tensor,
        x_out: ttnn.Tensor,
    ) -> None:
        row_net, h_written = to_all(config.grid), to_all(config.grid)
        row_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, tiles), block_count=1)
        square_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, tiles), block_count=1)
        ones_dfb = ttl.make_dataflow_buffer_like(like("bf16"), shape=(tiles, 1), block_count=1)
        h_written_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=1)
        sum_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=1)
        count_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=1)
        count_low_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=1)
        eps_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=1)
        eps_low_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=1)
        high_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=1)
        low_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=1)
        a_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=2)
        w_dfb = ttl.make_dataflow_buffer_like(w1, shape=(1, 1), block_count=2)
        h_dfb = ttl.make_dataflow_buffer_like(h, shape=(1, 1), block_count=2)
        kept_dfb = ttl.make_dataflow_buffer_like(h, shape=(1, 1), block_count=kept)
        h_out_dfb = ttl.make_dataflow_buffer_like(h_out, shape=(1, 1), block_count=2)
        x_out_dfb = ttl.make_dataflow_buffer_like(x_out, shape=(1, 1), block_count=2)

        @ttl.datamovement()
        def exchange():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            first, last = (node * tiles) // nodes, ((node + 1) * tiles) // nodes
            for turn in range(2):
                for _ in range(turn):
                    with h_written_dfb.reserve() as token:

                        def send_token(pipe: ttl.Pipe) -> None:
                            ttl.copy(w1[0:1, 0:1], token).wait()
                            ttl.copy(token, pipe).wait()

                        def receive_token(pipe: ttl.Pipe) -> None:
                            ttl.copy(pipe, token).wait()

                        h_written.if_src(send_token)
                        h_written.if_dst(receive_token)
                with row_dfb.reserve() as row:

                    def send_row(pipe: ttl.Pipe) -> None:
                        for _ in range(1 - turn):
                            ttl.copy(a[0:1, 0:tiles], row).wait()
                        for _ in range(turn):
                            ttl.copy(h_out[0:1, 0:tiles], row).wait()
                        ttl.copy(row, pipe).wait()

                    def receive_row(pipe: ttl.Pipe) -> None:
                        ttl.copy(pipe, row).wait()

                    row_net.if_src(send_row)
                    row_net.if_dst(receive_row)
                for i in range((last - first) * (1 - turn)):
                    t = first + i
                    with h_out_dfb.wait() as h_tile:
                        ttl.copy(h_tile, h_out[0:1, t : t + 1]).wait()
                for i in range((last - first) * turn):
                    t = first + i
                    with x_out_dfb.wait() as x_tile:
                        ttl.copy(x_tile, x_out[0:1, t : t + 1]).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            own = ((node + 1) * tiles) // nodes - (node * tiles) // nodes
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
            with (
                ones_dfb.wait() as ones,
                count_dfb.wait() as count,
                count_low_dfb.wait() as count_low,
                eps_dfb.wait() as eps,
                eps_low_dfb.wait() as eps_low,
            ):
                for turn in range(2):
                    for _ in range(turn):
                        with h_written_dfb.wait() as _:
                            pass
                    with row_dfb.wait() as row, square_dfb.reserve() as squares:
                        squares.store(row * row)
                    with square_dfb.wait() as squares, sum_dfb.reserve() as total:
                        total.store(squares @ ones)
                    with sum_dfb.wait() as total:
                        with high_dfb.reserve() as high:
                            high.store(
                                ttl.math.rsqrt(total * (count + count_low) + (eps + eps_low))
                            )
                        with high_dfb.wait() as high:
                            with low_dfb.reserve() as low:
                                low.store(
                                    ttl.math.rsqrt(total * (count + count_low) + (eps + eps_low))
                                    - high
                                )
                            with low_dfb.wait() as low:
                                for _ in range(own * (1 - turn)):
                                    with (
                                        a_dfb.wait() as a_tile,
                                        w_dfb.wait() as w_tile,
                                        h_dfb.wait() as h_tile,
                                    ):
                                        with kept_dfb.reserve() as kept_tile:
                                            kept_tile.store(h_tile + a_tile * (high + low) * w_tile)
                                        with h_out_dfb.reserve() as out:
                                            out.store(h_tile + a_tile * (high + low) * w_tile)
                                for _ in range(own * turn):
                                    with (
                                        kept_dfb.wait() as kept_tile,
                                        w_dfb.wait() as w_tile,
                                        x_out_dfb.reserve() as out,
                                    ):
                                        out.store(kept_tile * (high + low) * w_tile)

        @ttl.datamovement()
        def stream():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for t in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                with a_dfb.reserve() as a_tile:
                    ttl.copy(a[0:1, t : t + 1], a_tile).wait()
                with w_dfb.reserve() as w_tile:
                    ttl.copy(w1[0:1, t : t + 1], w_tile).wait()
                with h_dfb.reserve() as h_tile:
                    ttl.copy(h[0:1, t : t + 1], h_tile).wait()
            for t in range((node * tiles) // nodes, ((node + 1) * tiles) // nodes):
                with w_dfb.reserve() as w_tile:
                    ttl.copy(w2[0:1, t : t + 1], w_tile).wait()

    return operation
