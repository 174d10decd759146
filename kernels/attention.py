"""o = softmax(q · kᵀ + mask) · v for decode rows, one unit a core: `flash_attention`.

A unit is one KV head of one sequence. With U units, D the head size and S the cached positions:

q, o   [U · 32, D] bf16: a tile row a unit, whose 32 rows are (row of the sequence, query head)
k, v   [U · S, D] bf16: unit u owns the rows [u · S, (u + 1) · S), a ring or a length bucket
mask   [U · 32, S] bf16, added: 0 where a row sees a position, -30000 where it does not

The mask is data, so a ring that has wrapped, a window, the first position and unused rows are all
the same program. Scores are not scaled (Gemma 4: 1.0). A row that sees nothing gets
what it would get without a mask (scores below 64; a finite mean of v in any case): no NaN.

For each block of `block` tiles of positions, online softmax:

    s = mask + q · kᵀ               only to find the largest: m' = max(m, max s)
    p = exp((mask - m') + q · kᵀ)   in Dst's float32 from the product to p's one rounding
    l = l · exp(m - m') + p · 1
    o = o · exp(m - m') + p · v     and at the end o / l

The scores are taken twice: a bf16 score of 30 is off by up to 0.06, and so would be its exponential
by 6 %. m' comes from the bf16 ones, for it need not be the true largest, only the same for all.
l and o run as pairs of bf16 tiles (hi, lo), sixteen bits together, and so do the products p · 1 and
p · v: part = p · v and rest = part + (-p) · v = part - p · v. Buffers of float32 would be shorter
to write, but TT-Lang reprograms the packer before each stage while it may still pack the stage
before: stages whose formats differ race, on a chip as well. Here every buffer is bf16.
Cost over a softmax that takes each product once, a block: 2 · block · D / 32 tile products more.
kᵀ is a transpose of tiles, exact in bf16: block · D / 32 tile moves; the compiler has no product
with a transposed operand.

Error: below 2 roundings at Gemma's sizes. It grows with the scores, whatever the kernel does: the
matrix engine rounds the products of each eight dims to 2⁻¹² of their largest, and the exponential
turns that into a relative error. At D = 256 a score of 11 is off by up to 0.003 and one of 37 by
0.013; at D = 32, where each product is a larger part of the score, one of 44 by 0.023, six
roundings of its exponential. So small heads with scores around 40 are beyond 2 roundings, and 3.3
were seen at D = 64 with scores of 200. The functional simulator shows none of this.
Cores: node i of C owns the units [i U / C, (i + 1) U / C); no node talks to another.
DRAM: q, k, v, mask once, o once.
L1: `AttentionConfig.l1_bytes`: 1.05 MB for blocks of 4 tiles at D = 512, of 8 at 256 0.93 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import fits, whole_tiles
from kernels.runtime import TILE, Grid, like, ttl, ttnn

Attention = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]

LOWEST = -(2.0**100)
"""Below any score: what the running maximum starts with."""


@dataclass(frozen=True)
class AttentionConfig:
    """Sizes of one `flash_attention`; `block` in tiles of positions."""

    units: int
    s: int
    d: int
    grid: Grid
    block: int = 4

    def __post_init__(self) -> None:
        check_sizes(self.units, self.s, self.d, self.block)
        fits("block", self.block, self.l1_bytes, "lower it")

    @property
    def blocks(self) -> int:
        """Blocks of positions a unit."""
        return self.s // TILE // self.block

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        return softmax_bytes(self.block, self.d // TILE)


def check_sizes(units: int, s: int, d: int, block: int) -> None:
    """Refuses what has no whole tiles or no whole blocks."""
    whole_tiles("s", s)
    whole_tiles("d", d)
    if units < 1:
        raise ValueError(f"units = {units}: at least 1")
    if block < 1 or s // TILE % block:
        raise ValueError(f"block = {block} does not divide the {s // TILE} tiles of s")


def softmax_bytes(block: int, d_tiles: int) -> int:
    """L1 of the buffers of one node's softmax, in and out included, and two of the compiler's."""
    return 2048 * (5 * block * d_tiles + 10 * d_tiles + 5 * block + 14)


def flash_attention(config: AttentionConfig) -> Attention:
    """Operands: q, k, v, mask, o."""
    block, d_tiles, blocks, units = config.block, config.d // TILE, config.blocks, config.units
    grid_x, nodes = config.grid[0], config.grid[0] * config.grid[1]
    lowest = LOWEST

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(
        q: ttnn.Tensor, k: ttnn.Tensor, v: ttnn.Tensor, mask: ttnn.Tensor, o: ttnn.Tensor
    ) -> None:
        half = like("bf16")
        q_dfb = ttl.make_dataflow_buffer_like(q, shape=(1, d_tiles), block_count=1)
        mask_dfb = ttl.make_dataflow_buffer_like(mask, shape=(1, block), block_count=2)
        k_dfb = ttl.make_dataflow_buffer_like(k, shape=(block, d_tiles), block_count=2)
        v_dfb = ttl.make_dataflow_buffer_like(v, shape=(block, d_tiles), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(o, shape=(1, d_tiles), block_count=2)
        one_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        ones_dfb = ttl.make_dataflow_buffer_like(half, shape=(block, 1), block_count=1)
        turned_dfb = ttl.make_dataflow_buffer_like(half, shape=(d_tiles, block), block_count=1)
        score_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, block), block_count=1)
        p_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, block), block_count=1)
        top_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        max_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=2)
        fade_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        sum_part_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        sum_rest_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        sum_new_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        sum_hi_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=2)
        sum_lo_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=2)
        part_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, d_tiles), block_count=1)
        rest_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, d_tiles), block_count=1)
        new_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, d_tiles), block_count=1)
        hi_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, d_tiles), block_count=2)
        lo_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, d_tiles), block_count=2)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for u in range((node * units) // nodes, ((node + 1) * units) // nodes):
                with q_dfb.reserve() as q_blk:
                    ttl.copy(q[u : u + 1, 0:d_tiles], q_blk).wait()
                for b in range(blocks):
                    s = b * block
                    t = (u * blocks + b) * block
                    with mask_dfb.reserve() as mask_blk:
                        ttl.copy(mask[u : u + 1, s : s + block], mask_blk).wait()
                    with k_dfb.reserve() as k_blk:
                        ttl.copy(k[t : t + block, 0:d_tiles], k_blk).wait()
                    with v_dfb.reserve() as v_blk:
                        ttl.copy(v[t : t + block, 0:d_tiles], v_blk).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with one_dfb.reserve() as one:
                one.store(ttl.math.fill(one, 1.0))
            with ones_dfb.reserve() as ones:
                ones.store(ttl.math.fill(ones, 1.0))
            with one_dfb.wait() as one, ones_dfb.wait() as ones:
                for _ in range((node * units) // nodes, ((node + 1) * units) // nodes):
                    with max_dfb.reserve() as largest:
                        largest.store(ttl.math.fill(largest, lowest))
                    with sum_hi_dfb.reserve() as sum_hi:
                        sum_hi.store(ttl.math.fill(sum_hi, 0.0))
                    with sum_lo_dfb.reserve() as sum_lo:
                        sum_lo.store(ttl.math.fill(sum_lo, 0.0))
                    with hi_dfb.reserve() as hi:
                        hi.store(ttl.math.fill(hi, 0.0))
                    with lo_dfb.reserve() as lo:
                        lo.store(ttl.math.fill(lo, 0.0))
                    with q_dfb.wait() as q_blk:
                        for _ in range(blocks):
                            with mask_dfb.wait() as mask_blk:
                                with k_dfb.wait() as k_blk, turned_dfb.reserve() as turned:
                                    turned.store(ttl.math.transpose(k_blk))
                                with turned_dfb.wait() as turned:
                                    with score_dfb.reserve() as score:
                                        score.store(mask_blk + q_blk @ turned)
                                    with score_dfb.wait() as score, top_dfb.reserve() as top:
                                        top.store(ttl.math.reduce_max(score, one, dims=[1]))
                                    with max_dfb.wait() as before, top_dfb.wait() as top:
                                        with max_dfb.reserve() as largest:
                                            largest.store(ttl.math.max(before, top))
                                        with fade_dfb.reserve() as fade:
                                            fade.store(
                                                ttl.math.exp(before - ttl.math.max(before, top))
                                            )
                                        with score_dfb.reserve() as bias:
                                            bias.store(
                                                mask_blk
                                                - ttl.math.broadcast(
                                                    ttl.math.max(before, top), bias, dims=[1]
                                                )
                                            )
                                    with score_dfb.wait() as bias, p_dfb.reserve() as p:
                                        p.store(ttl.math.exp(bias + q_blk @ turned))
                            with p_dfb.wait() as p, v_dfb.wait() as v_blk:
                                with score_dfb.reserve() as minus:
                                    minus.store(ttl.math.neg(p))
                                with sum_part_dfb.reserve() as sum_part:
                                    sum_part.store(p @ ones)
                                with part_dfb.reserve() as part:
                                    part.store(p @ v_blk)
                                with (
                                    score_dfb.wait() as minus,
                                    sum_part_dfb.wait() as sum_part,
                                    part_dfb.wait() as part,
                                    fade_dfb.wait() as fade,
                                ):
                                    with sum_rest_dfb.reserve() as sum_rest:
                                        sum_rest.store(sum_part + minus @ ones)
                                    with rest_dfb.reserve() as rest:
                                        rest.store(part + minus @ v_blk)
                                    with (
                                        sum_hi_dfb.wait() as sum_hi,
                                        sum_lo_dfb.wait() as sum_lo,
                                        sum_rest_dfb.wait() as sum_rest,
                                    ):
                                        with sum_new_dfb.reserve() as sum_new:
                                            sum_new.store(
                                                (sum_hi + sum_lo)
                                                * ttl.math.broadcast(fade, sum_new, dims=[1])
                                                + sum_part
                                                - sum_rest
                                            )
                                        with sum_new_dfb.wait() as sum_new:
                                            with sum_hi_dfb.reserve() as after:
                                                after.store(sum_new)
                                            with sum_lo_dfb.reserve() as after:
                                                after.store(
                                                    (sum_hi + sum_lo)
                                                    * ttl.math.broadcast(fade, after, dims=[1])
                                                    + sum_part
                                                    - sum_rest
                                                    - sum_new
                                                )
                                    with (
                                        hi_dfb.wait() as hi,
                                        lo_dfb.wait() as lo,
                                        rest_dfb.wait() as rest,
                                    ):
                                        with new_dfb.reserve() as new:
                                            new.store(
                                                (hi + lo) * ttl.math.broadcast(fade, new, dims=[1])
                                                + part
                                                - rest
                                            )
                                        with new_dfb.wait() as new:
                                            with hi_dfb.reserve() as after:
                                                after.store(new)
                                            with lo_dfb.reserve() as after:
                                                after.store(
                                                    (hi + lo)
                                                    * ttl.math.broadcast(fade, after, dims=[1])
                                                    + part
                                                    - rest
                                                    - new
                                                )
                    with max_dfb.wait() as _:
                        pass
                    with (
                        sum_hi_dfb.wait() as sum_hi,
                        sum_lo_dfb.wait() as sum_lo,
                        hi_dfb.wait() as hi,
                        lo_dfb.wait() as lo,
                        y_dfb.reserve() as y_blk,
                    ):
                        y_blk.store(
                            (hi + lo)
                            * ttl.math.recip(
                                ttl.math.broadcast(sum_hi, y_blk, dims=[1])
                                + ttl.math.broadcast(sum_lo, y_blk, dims=[1])
                            )
                        )

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for u in range((node * units) // nodes, ((node + 1) * units) // nodes):
                with y_dfb.wait() as y_blk:
                    ttl.copy(y_blk, o[u : u + 1, 0:d_tiles]).wait()

    return operation
