"""m = down(gelu_tanh(x gate) · (x up)): a whole feed-forward block in one launch.

x [32, H] bf16; gate, up [H, F], down [F, H] bf16, bfp8 or bfp4, as the checkpoint has them,
transposed;
identities [32, 32 S] bf16: S identity tiles;
act [32, F], parts [32 S, H] bf16: scratch in DRAM; m [32, H] bf16.
H and F multiples of 32; F = S · K. K = H where H divides F, elsewhere the largest K up to H that
gives 64 nodes work: 512 in Gemma 3 270M, whose H is 640 and F 2048. A multiple of H, so fewer
parts, where three of its columns fit the L1 and no node is much busier than the average: on a p150
S is 4 in E4B; in E2B 4 in the first layers and 8 in the wide ones, with block floats 2 and 4.

**Units.** The weights are cut into columns: F / 32 of gate, as many of up, of H x 32 each; down's
K = F falls into S shares, so S H / 32 columns of K x 32. Node i of C owns units
[i n / C, (i + 1) n / C) of the n of each, down's in the order share by share, so the nodes are
equally busy in all phases and any C serves.

**Phases.** 1. (0, 0) multicasts x. Each node makes its tiles of act, in bf16, and writes them to
DRAM. 2. (0, 0) reads act and multicasts it, share by share; each node multiplies with its columns
of down and writes the products, in bf16, to DRAM. 3. Each node adds the S products of its columns
of m, as one matmul with a row of identities: float32 sums, rounded once.
Weights stream all the while, up to `w_blocks` columns ahead: the `stream` thread knows no phases.
Multicasts are the first thread's (NoC 0), as from NoC 1 their corners are in the wrong order.

**Why through DRAM.** Sums over nodes by pipes need a pipe a node, and TT-Lang emits each pipe's
program into every node: 100 of them overflow the 69 KB that a core has for programs. act and parts
are 1.7 % of the traffic. What has to be known is when all nodes have written: a multicast's sender
waits until every receiver has asked for it, so one multicast of a tile, asked for after the write,
is a barrier; the second one carries the identities.

**Roundings.** act, up's products and down's are bf16; the gate's stay in float32 in Dst, where one
expression multiplies, bends (`gelu_mul` has the formula) and meets up. A block float cannot meet
bf16 in an expression, so a stage of its own casts each column.
Cores: all, at least two. DRAM: x, gate, up, down once; act and parts written and read once; m
written once. L1: a block of H for x, two of K for act, `w_blocks` columns, with block floats one
more in bf16, and some tiles: 1.37 MB for E4B in bf16. (Where K is not H, columns of both heights.)
Reaches 1.4 roundings at true sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.gelu_mul import GELU_TILES
from kernels.limits import weight_format, whole_tiles
from kernels.runtime import N150_L1_BYTES, TILE, TILE_BYTES, Format, Grid, like, ttl, ttnn
from kernels.threads import to_all

Mlp = Callable[..., None]
_UNEVEN = 7 / 6
"""How much of down the busiest node may have, over the average."""
_STREAMED = 3
"""Columns of weights in L1 that a larger share must leave room for."""
_SMALL_TILES = 12
"""Tiles of L1 besides x and the weights, without the identities and the parts."""


@dataclass(frozen=True)
class MlpConfig:
    """Sizes of one MLP."""

    h: int
    f: int
    grid: Grid
    weights: Format = "bf16"
    w_blocks: int = 0
    """Columns of weights in L1, of each height; 0 for as many as fit, up to eight."""

    def __post_init__(self) -> None:
        whole_tiles("h", self.h)
        whole_tiles("f", self.f)
        if self.grid[0] * self.grid[1] < 2:
            raise ValueError(f"grid = {self.grid} has fewer than 2 nodes")
        weight_format(self.weights)
        if self.w_blocks < 0 or self.w_blocks == 1:
            raise ValueError(f"w_blocks = {self.w_blocks}: at least 2, or 0 for as many as fit")
        if self.columns < 2:
            raise ValueError(f"h = {self.h} leaves L1 for {self.columns} columns of weights, not 2")

    @property
    def share_tiles(self) -> int:
        """K in tiles."""
        h_tiles, f_tiles, nodes = self.h // TILE, self.f // TILE, self.grid[0] * self.grid[1]
        divisors = [k for k in range(1, f_tiles + 1) if f_tiles % k == 0]
        enough = (k for k in divisors if k <= h_tiles and f_tiles // k * h_tiles >= min(64, nodes))
        least = h_tiles if h_tiles in divisors else max(enough, default=1)
        most = f_tiles * h_tiles / nodes * _UNEVEN
        taller = (k for k in divisors if k > least and k % h_tiles == 0)
        even = (k for k in taller if self._units(k) * k <= most)
        return max((k for k in even if self._columns(k) >= _STREAMED), default=least)

    @property
    def shares(self) -> int:
        """S, into how many parts down's K falls."""
        return self.f // TILE // self.share_tiles

    @property
    def units(self) -> int:
        """The most that a node owns of down."""
        return self._units(self.share_tiles)

    @property
    def columns(self) -> int:
        """Columns of weights in L1."""
        return self._columns(self.share_tiles)

    def _units(self, k_tiles: int) -> int:
        return -(-(self.f // TILE // k_tiles) * (self.h // TILE) // (self.grid[0] * self.grid[1]))

    def _columns(self, k_tiles: int) -> int:
        tile, h_tiles, shares = TILE_BYTES["bf16"], self.h // TILE, self.f // TILE // k_tiles
        heights = h_tiles if k_tiles == h_tiles else h_tiles + k_tiles
        cast = 0 if self.weights == "bf16" else heights
        small = _SMALL_TILES + 3 * shares + self._units(k_tiles)
        left = N150_L1_BYTES - (h_tiles + 2 * k_tiles + cast + small) * tile
        fit = left // (heights * TILE_BYTES[self.weights])
        return min(fit, self.w_blocks or 8)


def geglu_mlp(config: MlpConfig) -> Mlp:
    """M = down(gelu_tanh(x gate) · (x up)); operands as in the file's first lines, m last."""
    h_tiles, f_tiles, shares = config.h // TILE, config.f // TILE, config.shares
    k_tiles, d_units = config.share_tiles, config.shares * h_tiles
    grid_x, grid_y = config.grid
    nodes = grid_x * grid_y
    w_blocks, units = config.columns, config.units
    one_value, s_high_value, s_low_value, c_high_value, c_low_value = GELU_TILES

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(
        x: ttnn.Tensor,
        gate: ttnn.Tensor,
        up: ttnn.Tensor,
        down: ttnn.Tensor,
        identities: ttnn.Tensor,
        act: ttnn.Tensor,
        parts: ttnn.Tensor,
        m: ttnn.Tensor,
    ) -> None:
        x_net, act_net = to_all(config.grid), to_all(config.grid)
        acts_written, parts_written = to_all(config.grid), to_all(config.grid)
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, h_tiles), block_count=1)
        share_dfb = ttl.make_dataflow_buffer_like(act, shape=(1, k_tiles), block_count=2)
        w_dfb = ttl.make_dataflow_buffer_like(gate, shape=(h_tiles, 1), block_count=w_blocks)
        down_dfb = w_dfb
        if k_tiles != h_tiles:
            down_dfb = ttl.make_dataflow_buffer_like(down, shape=(k_tiles, 1), block_count=w_blocks)
        one_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        s_high_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        s_low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        c_high_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        c_low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        u_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        act_dfb = ttl.make_dataflow_buffer_like(act, shape=(1, 1), block_count=2)
        acts_written_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, 1), block_count=1)
        parts_written_dfb = ttl.make_dataflow_buffer_like(
            identities, shape=(1, shares), block_count=1
        )
        # all of a node's: they are written when the last share has been received
        product_dfb = ttl.make_dataflow_buffer_like(parts, shape=(1, 1), block_count=units)
        stack_dfb = ttl.make_dataflow_buffer_like(parts, shape=(shares, 1), block_count=2)
        m_dfb = ttl.make_dataflow_buffer_like(m, shape=(1, 1), block_count=2)

        @ttl.datamovement()
        def exchange():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            first, last = (node * f_tiles) // nodes, ((node + 1) * f_tiles) // nodes
            with x_dfb.reserve() as x_blk:

                def send_x(pipe: ttl.Pipe) -> None:
                    ttl.copy(x[0:1, 0:h_tiles], x_blk).wait()
                    ttl.copy(x_blk, pipe).wait()

                def receive_x(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, x_blk).wait()

                x_net.if_src(send_x)
                x_net.if_dst(receive_x)
            for t in range(first, last):
                with act_dfb.wait() as a:
                    ttl.copy(a, act[0:1, t : t + 1]).wait()
            with acts_written_dfb.reserve() as token:

                def send_token(pipe: ttl.Pipe) -> None:
                    ttl.copy(identities[0:1, 0:1], token).wait()
                    ttl.copy(token, pipe).wait()

                def receive_token(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, token).wait()

                acts_written.if_src(send_token)
                acts_written.if_dst(receive_token)
            for share in range(shares):
                k = share * k_tiles
                with share_dfb.reserve() as act_blk:

                    def send_act(pipe: ttl.Pipe) -> None:
                        ttl.copy(act[0:1, k : k + k_tiles], act_blk).wait()
                        ttl.copy(act_blk, pipe).wait()

                    def receive_act(pipe: ttl.Pipe) -> None:
                        ttl.copy(pipe, act_blk).wait()

                    act_net.if_src(send_act)
                    act_net.if_dst(receive_act)
            for unit in range((node * d_units) // nodes, ((node + 1) * d_units) // nodes):
                with product_dfb.wait() as product:
                    r = unit // h_tiles
                    n = unit % h_tiles
                    ttl.copy(product, parts[r : r + 1, n : n + 1]).wait()
            with parts_written_dfb.reserve() as identity:

                def send_identity(pipe: ttl.Pipe) -> None:
                    ttl.copy(identities[0:1, 0:shares], identity).wait()
                    ttl.copy(identity, pipe).wait()

                def receive_identity(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, identity).wait()

                parts_written.if_src(send_identity)
                parts_written.if_dst(receive_identity)
            for n in range((node * h_tiles) // nodes, ((node + 1) * h_tiles) // nodes):
                with stack_dfb.reserve() as stack:
                    ttl.copy(parts[0:shares, n : n + 1], stack).wait()
                with m_dfb.wait() as m_blk:
                    ttl.copy(m_blk, m[0:1, n : n + 1]).wait()

        if config.weights == "bf16":

            @ttl.compute()
            def compute():
                node_x, node_y = ttl.node(dims=2)
                node = node_y * grid_x + node_x
                first, last = (node * f_tiles) // nodes, ((node + 1) * f_tiles) // nodes
                with one_dfb.reserve() as one:
                    one.store(ttl.math.fill(one, one_value))
                with s_high_dfb.reserve() as s_high:
                    s_high.store(ttl.math.fill(s_high, s_high_value))
                with s_low_dfb.reserve() as s_low:
                    s_low.store(ttl.math.fill(s_low, s_low_value))
                with c_high_dfb.reserve() as c_high:
                    c_high.store(ttl.math.fill(c_high, c_high_value))
                with c_low_dfb.reserve() as c_low:
                    c_low.store(ttl.math.fill(c_low, c_low_value))
                with (
                    one_dfb.wait() as one,
                    s_high_dfb.wait() as s_high,
                    s_low_dfb.wait() as s_low,
                    c_high_dfb.wait() as c_high,
                    c_low_dfb.wait() as c_low,
                    x_dfb.wait() as x_blk,
                ):
                    for _ in range(first, last):
                        with w_dfb.wait() as w_blk, u_dfb.reserve() as u:
                            u.store(x_blk @ w_blk)
                        with w_dfb.wait() as w_blk, u_dfb.wait() as u, act_dfb.reserve() as a:
                            g = x_blk @ w_blk
                            slope = (s_high + s_low) + g * g * (c_high + c_low)
                            gelu = g * ttl.math.recip(one + ttl.math.exp(g * slope))
                            a.store(u * gelu)
                with acts_written_dfb.wait() as _:
                    pass
                for share in range(shares):
                    with share_dfb.wait() as act_blk:
                        for unit in range(
                            (node * d_units) // nodes, ((node + 1) * d_units) // nodes
                        ):
                            off = unit // h_tiles - share
                            for _ in range(1 // (1 + off * off)):  # once if it is of this share
                                with down_dfb.wait() as w_blk, product_dfb.reserve() as product:
                                    product.store(act_blk @ w_blk)
                with parts_written_dfb.wait() as identity:
                    for _ in range((node * h_tiles) // nodes, ((node + 1) * h_tiles) // nodes):
                        with stack_dfb.wait() as stack, m_dfb.reserve() as m_blk:
                            m_blk.store(identity @ stack)

        else:
            cast_dfb = ttl.make_dataflow_buffer_like(
                like("bf16"), shape=(h_tiles, 1), block_count=1
            )
            cast_down_dfb = cast_dfb
            if k_tiles != h_tiles:
                cast_down_dfb = ttl.make_dataflow_buffer_like(
                    like("bf16"), shape=(k_tiles, 1), block_count=1
                )

            @ttl.compute()
            def compute():
                node_x, node_y = ttl.node(dims=2)
                node = node_y * grid_x + node_x
                first, last = (node * f_tiles) // nodes, ((node + 1) * f_tiles) // nodes
                with one_dfb.reserve() as one:
                    one.store(ttl.math.fill(one, one_value))
                with s_high_dfb.reserve() as s_high:
                    s_high.store(ttl.math.fill(s_high, s_high_value))
                with s_low_dfb.reserve() as s_low:
                    s_low.store(ttl.math.fill(s_low, s_low_value))
                with c_high_dfb.reserve() as c_high:
                    c_high.store(ttl.math.fill(c_high, c_high_value))
                with c_low_dfb.reserve() as c_low:
                    c_low.store(ttl.math.fill(c_low, c_low_value))
                with (
                    one_dfb.wait() as one,
                    s_high_dfb.wait() as s_high,
                    s_low_dfb.wait() as s_low,
                    c_high_dfb.wait() as c_high,
                    c_low_dfb.wait() as c_low,
                    x_dfb.wait() as x_blk,
                ):
                    for _ in range(first, last):
                        with w_dfb.wait() as w_blk, cast_dfb.reserve() as cast:
                            cast.store(ttl.math.typecast(w_blk, ttnn.bfloat16))
                        with cast_dfb.wait() as cast, u_dfb.reserve() as u:
                            u.store(x_blk @ cast)
                        with w_dfb.wait() as w_blk, cast_dfb.reserve() as cast:
                            cast.store(ttl.math.typecast(w_blk, ttnn.bfloat16))
                        with cast_dfb.wait() as cast, u_dfb.wait() as u, act_dfb.reserve() as a:
                            g = x_blk @ cast
                            slope = (s_high + s_low) + g * g * (c_high + c_low)
                            gelu = g * ttl.math.recip(one + ttl.math.exp(g * slope))
                            a.store(u * gelu)
                with acts_written_dfb.wait() as _:
                    pass
                for share in range(shares):
                    with share_dfb.wait() as act_blk:
                        for unit in range(
                            (node * d_units) // nodes, ((node + 1) * d_units) // nodes
                        ):
                            off = unit // h_tiles - share
                            for _ in range(1 // (1 + off * off)):  # once if it is of this share
                                with down_dfb.wait() as w_blk, cast_down_dfb.reserve() as cast:
                                    cast.store(ttl.math.typecast(w_blk, ttnn.bfloat16))
                                with cast_down_dfb.wait() as cast, product_dfb.reserve() as product:
                                    product.store(act_blk @ cast)
                with parts_written_dfb.wait() as identity:
                    for _ in range((node * h_tiles) // nodes, ((node + 1) * h_tiles) // nodes):
                        with stack_dfb.wait() as stack, m_dfb.reserve() as m_blk:
                            m_blk.store(identity @ stack)

        @ttl.datamovement()
        def stream():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            first, last = (node * f_tiles) // nodes, ((node + 1) * f_tiles) // nodes
            for t in range(first, last):
                with w_dfb.reserve() as w_blk:
                    ttl.copy(up[0:h_tiles, t : t + 1], w_blk).wait()
                with w_dfb.reserve() as w_blk:
                    ttl.copy(gate[0:h_tiles, t : t + 1], w_blk).wait()
            for unit in range((node * d_units) // nodes, ((node + 1) * d_units) // nodes):
                k = (unit // h_tiles) * k_tiles
                n = unit % h_tiles
                with down_dfb.reserve() as w_blk:
                    ttl.copy(down[k : k + k_tiles, n : n + 1], w_blk).wait()

    return operation
