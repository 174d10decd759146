"""o = softmax(q · kᵀ + mask) · v over units: one KV head of one chunk of a sequence's rows.

A step has `waves` chunks of each of the slots 0 … slots - 1 (tensors may hold more slots, which are
left alone). With K KV heads, D the head size, U = waves · slots · K units:

q, o                [U · 32, D] bf16: a tile row a unit, u = (wave · slots + slot) · K + head, whose
                    32 rows are (row of the chunk, query head)
k, v                [slots · K · stride, D] bf16, the cache: (slot, head) owns `stride` places, a
                    ring or a whole context, of which the first `s` are read: a length bucket
k_staged, v_staged  [slots · K · 128, D] bf16: the newest positions, where kernels/kv_append.py puts
                    them, so that a step need not rewrite the cache
mask, mask_staged   [waves · slots · 32, s] and [waves · slots · 32, 128] bf16, added: 0 where a row
                    sees a place, -30000 where not; by `units.chunk_masks`
scratch             [U · P · 32, 2 D + 96] bf16: what the parts of a unit hand on

The places of a unit are P = ceil(s / part) + 1 parts: `part` places each of the cache and, last,
staging.

1. A node runs an online softmax over each of its pairs (unit, part), 64 places a block:

       s = mask + q · kᵀ               only to find the largest: m' = max(m, max s)
       p = exp((mask - m') + q · kᵀ)   in Dst's float32 from the product to p's one rounding
       l = l · exp(m - m') + p · 1
       o = o · exp(m - m') + p · v

   and writes o, m and l to its row of scratch.
2. A one-tile multicast from node (0, 0) to all is the barrier: its sender waits until every node
   has come to receive, so when it arrives, all of scratch is written.
3. A node merges its items (unit, tile column of o) over the parts in order, by the same rule,
   divides, rounds once and writes them.

What a row gets depends on what it sees alone, bit for bit. Which places a block and a part have is
fixed by `part`, the same for every s, batch and grid; what a row does not see leaves no trace:
after a block or part that it sees, exp(m - m') is exactly 1 and p or a part's factor exactly 0;
before the first, exp(-30000 - m') = 0 wipes what there was. So `part` is a constant of a kind of
layer. tests/kernels/unseen.py shows it, on simulated chips too.

Scores are not scaled (Gemma 4: 1.0). A row that sees nothing gets some finite mean of v: its
scores are at most 64 above the largest, rounded to 128, so that no exponential overflows.
The scores are taken twice: a bf16 score of 30 is off by up to 0.06, and so would be its exponential
by 6 %. m' comes from the bf16 ones, for it need not be the true largest, only the same for all.
l and o run as pairs of bf16 tiles (hi, lo), sixteen bits together, and so do the products p · 1 and
p · v: part = p · v and rest = part + (-p) · v = part - p · v. Buffers of float32 would be shorter
to write, but TT-Lang reprograms the packer before each stage while it may still pack the stage
before: stages whose formats differ race, on a chip as well. Here every buffer is bf16.
Cost over a softmax that takes each product once, a block: 4 · D / 32 tile products more.
kᵀ is a transpose of tiles, exact in bf16: 2 · D / 32 tile moves; the compiler has no product
with a transposed operand.

Error: below 2 roundings at Gemma's sizes. It grows with the scores, whatever the kernel does: the
matrix engine rounds the products of each eight dims to 2⁻¹² of their largest, and the exponential
turns that into a relative error. At D = 256 a score of 11 is off by up to 0.003 and one of 37 by
0.013; at D = 32, where each product is a larger part of the score, one of 44 by 0.023, six
roundings of its exponential. So small heads with scores around 40 are beyond 2 roundings, and 3.3
were seen at D = 64 with scores of 200. The functional simulator shows none of this.
Cores: node i of C owns the pairs [i U P / C, (i + 1) U P / C), unit by unit, and the items
[i U D / 32 / C, (i + 1) U D / 32 / C); at least two nodes, for the barrier.
DRAM: q P times, o once; k, v, k_staged, v_staged `waves` times, mask, mask_staged K times; scratch
written once and read once, but m and l, three of its 2 D / 32 + 3 tiles a row, D / 32 times.
L1: `AttentionConfig.l1_bytes`: 0.74 MB at D = 512, 0.41 MB at 256. Dataflow buffers: all 32, two of
them the compiler's own.
Limits: step 3 reads a column's parts one after the other. Sums over a chain of pipes would be
serial too, and the code of its pipes does not fit: every node carries that of every pipe, 0.6 KB
each, of 70 KB. Longer than a file should be: a compute thread can call nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import fits, whole_tiles
from kernels.runtime import TILE, Grid, like, ttl, ttnn
from kernels.threads import to_all
from kernels.units import STAGED

Attention = Callable[..., None]

BLOCK = 2
"""Tiles of places that a softmax takes at once."""
LOWEST = -(2.0**100)
"""Below any score: what the running maximum starts with."""


@dataclass(frozen=True)
class AttentionConfig:
    """Sizes of one `attention`; `s`, `stride` and `part` in places."""

    slots: int
    kv_heads: int
    s: int
    stride: int
    d: int
    grid: Grid
    part: int
    waves: int = 1

    def __post_init__(self) -> None:
        for name in ("slots", "kv_heads", "waves"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: at least 1")
        for name in ("s", "stride", "part"):
            whole_tiles(name, getattr(self, name), BLOCK * TILE)
        whole_tiles("d", self.d)
        if self.s > self.stride:
            raise ValueError(f"s = {self.s} is more than stride = {self.stride}")
        if self.s > self.part and self.s % self.part:
            raise ValueError(f"part = {self.part} does not divide s = {self.s}")
        if self.grid[0] * self.grid[1] < 2:
            # a multicast to one node has no flow control
            raise ValueError(f"grid = {self.grid}: at least 2 nodes")
        fits("d", self.d, self.l1_bytes)

    @property
    def units(self) -> int:
        """Units of q and o."""
        return self.waves * self.slots * self.kv_heads

    @property
    def parts(self) -> int:
        """Parts that a unit's places fall into, staging included."""
        return -(-self.s // self.part) + 1

    @property
    def scratch_shape(self) -> tuple[int, int]:
        """Of the scratch tensor."""
        return self.units * self.parts * TILE, 2 * self.d + 3 * TILE

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take, two of the compiler's included."""
        return 2048 * (20 * (self.d // TILE) + 39)


def attention(config: AttentionConfig) -> Attention:
    """Operands: q, k, v, k_staged, v_staged, mask, mask_staged, scratch, o."""
    block, d_tiles, units, parts = BLOCK, config.d // TILE, config.units, config.parts
    kv_heads, owners, stride = (
        config.kv_heads,
        config.slots * config.kv_heads,
        config.stride // TILE,
    )
    cached = min(config.s, config.part) // TILE // block
    staged = STAGED // TILE // block
    grid_x, nodes = config.grid[0], config.grid[0] * config.grid[1]
    pairs, items = units * parts, units * d_tiles
    lowest = LOWEST
    maximum = 2 * d_tiles

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(
        q: ttnn.Tensor,
        k: ttnn.Tensor,
        v: ttnn.Tensor,
        k_staged: ttnn.Tensor,
        v_staged: ttnn.Tensor,
        mask: ttnn.Tensor,
        mask_staged: ttnn.Tensor,
        scratch: ttnn.Tensor,
        o: ttnn.Tensor,
    ) -> None:
        barrier = to_all(config.grid)
        half = like("bf16")
        q_dfb = ttl.make_dataflow_buffer_like(q, shape=(1, d_tiles), block_count=1)
        mask_dfb = ttl.make_dataflow_buffer_like(mask, shape=(1, block), block_count=2)
        k_dfb = ttl.make_dataflow_buffer_like(k, shape=(block, d_tiles), block_count=2)
        v_dfb = ttl.make_dataflow_buffer_like(v, shape=(block, d_tiles), block_count=2)
        one_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        ones_dfb = ttl.make_dataflow_buffer_like(half, shape=(block, 1), block_count=1)
        turned_dfb = ttl.make_dataflow_buffer_like(half, shape=(d_tiles, block), block_count=1)
        score_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, block), block_count=1)
        p_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, block), block_count=1)
        top_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        max_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=2)
        fade_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        sum_part_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=2)
        sum_rest_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=2)
        sum_new_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        sum_hi_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=2)
        sum_lo_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=2)
        part_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, d_tiles), block_count=1)
        rest_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, d_tiles), block_count=1)
        new_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, d_tiles), block_count=1)
        hi_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, d_tiles), block_count=2)
        lo_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, d_tiles), block_count=2)
        row_dfb = ttl.make_dataflow_buffer_like(scratch, shape=(1, d_tiles), block_count=2)
        stat_dfb = ttl.make_dataflow_buffer_like(scratch, shape=(1, 1), block_count=2)
        arrived_dfb = ttl.make_dataflow_buffer_like(scratch, shape=(1, 1), block_count=1)
        hi_in_dfb = ttl.make_dataflow_buffer_like(scratch, shape=(1, 1), block_count=4)
        lo_in_dfb = ttl.make_dataflow_buffer_like(scratch, shape=(1, 1), block_count=4)
        y_dfb = ttl.make_dataflow_buffer_like(o, shape=(1, 1), block_count=2)

        # Defined first because it multicasts: the other thread's network takes rectangles turned.
        @ttl.datamovement()
        def write():
            """What the softmax writes; the barrier; then what the merge reads."""
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for r in range((node * pairs) // nodes, ((node + 1) * pairs) // nodes):
                with row_dfb.wait() as row:
                    ttl.copy(row, scratch[r : r + 1, 0:d_tiles]).wait()
                with row_dfb.wait() as row:
                    ttl.copy(row, scratch[r : r + 1, d_tiles : 2 * d_tiles]).wait()
                for n in range(maximum, maximum + 3):
                    with stat_dfb.wait() as stat:
                        ttl.copy(stat, scratch[r : r + 1, n : n + 1]).wait()
            with arrived_dfb.reserve() as arrived:

                def send(pipe: ttl.Pipe) -> None:
                    ttl.copy(q[0:1, 0:1], arrived).wait()
                    ttl.copy(arrived, pipe).wait()

                def receive(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, arrived).wait()

                barrier.if_src(send)
                barrier.if_dst(receive)
            with arrived_dfb.wait() as arrived:
                pass
            for item in range((node * items) // nodes, ((node + 1) * items) // nodes):
                first = item // d_tiles * parts
                n = item % d_tiles
                for r in range(first, first + parts):
                    with hi_in_dfb.reserve() as top:
                        ttl.copy(scratch[r : r + 1, maximum : maximum + 1], top).wait()
                    with hi_in_dfb.reserve() as hi_in, lo_in_dfb.reserve() as lo_in:
                        hi = ttl.copy(scratch[r : r + 1, maximum + 1 : maximum + 2], hi_in)
                        lo = ttl.copy(scratch[r : r + 1, maximum + 2 : maximum + 3], lo_in)
                        hi.wait()
                        lo.wait()
                    with hi_in_dfb.reserve() as hi_in, lo_in_dfb.reserve() as lo_in:
                        hi = ttl.copy(scratch[r : r + 1, n : n + 1], hi_in)
                        lo = ttl.copy(scratch[r : r + 1, d_tiles + n : d_tiles + n + 1], lo_in)
                        hi.wait()
                        lo.wait()

        @ttl.datamovement()
        def read():
            """What the softmax reads; then, of the merge, what it writes."""
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for r in range((node * pairs) // nodes, ((node + 1) * pairs) // nodes):
                u = r // parts
                i = r % parts
                last = (i + 1) // parts
                chunk = u // kv_heads
                owner = u % owners
                with q_dfb.reserve() as q_blk:
                    ttl.copy(q[u : u + 1, 0:d_tiles], q_blk).wait()
                for b in range(i * cached, i * cached + cached * (1 - last)):
                    s = b * block
                    t = owner * stride + s
                    with mask_dfb.reserve() as mask_blk:
                        ttl.copy(mask[chunk : chunk + 1, s : s + block], mask_blk).wait()
                    with k_dfb.reserve() as k_blk:
                        ttl.copy(k[t : t + block, 0:d_tiles], k_blk).wait()
                    with v_dfb.reserve() as v_blk:
                        ttl.copy(v[t : t + block, 0:d_tiles], v_blk).wait()
                for b in range(0, staged * last):
                    s = b * block
                    t = owner * staged * block + s
                    with mask_dfb.reserve() as mask_blk:
                        ttl.copy(mask_staged[chunk : chunk + 1, s : s + block], mask_blk).wait()
                    with k_dfb.reserve() as k_blk:
                        ttl.copy(k_staged[t : t + block, 0:d_tiles], k_blk).wait()
                    with v_dfb.reserve() as v_blk:
                        ttl.copy(v_staged[t : t + block, 0:d_tiles], v_blk).wait()
            for item in range((node * items) // nodes, ((node + 1) * items) // nodes):
                u = item // d_tiles
                n = item % d_tiles
                with y_dfb.wait() as y_blk:
                    ttl.copy(y_blk, o[u : u + 1, n : n + 1]).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with one_dfb.reserve() as one:
                one.store(ttl.math.fill(one, 1.0))
            with ones_dfb.reserve() as ones:
                ones.store(ttl.math.fill(ones, 1.0))
            with one_dfb.wait() as one, ones_dfb.wait() as ones:
                for r in range((node * pairs) // nodes, ((node + 1) * pairs) // nodes):
                    last = (r % parts + 1) // parts
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
                        for _ in range(0, cached + (staged - cached) * last):
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
                    with hi_dfb.wait() as hi, row_dfb.reserve() as row:
                        row.store(hi)
                    with lo_dfb.wait() as lo, row_dfb.reserve() as row:
                        row.store(lo)
                    with max_dfb.wait() as largest, stat_dfb.reserve() as stat:
                        stat.store(largest)
                    with sum_hi_dfb.wait() as sum_hi, stat_dfb.reserve() as stat:
                        stat.store(sum_hi)
                    with sum_lo_dfb.wait() as sum_lo, stat_dfb.reserve() as stat:
                        stat.store(sum_lo)
            for _ in range((node * items) // nodes, ((node + 1) * items) // nodes):
                with max_dfb.reserve() as largest:
                    largest.store(ttl.math.fill(largest, lowest))
                with sum_hi_dfb.reserve() as sum_hi:
                    sum_hi.store(ttl.math.fill(sum_hi, 0.0))
                with sum_lo_dfb.reserve() as sum_lo:
                    sum_lo.store(ttl.math.fill(sum_lo, 0.0))
                with sum_part_dfb.reserve() as o_hi:
                    o_hi.store(ttl.math.fill(o_hi, 0.0))
                with sum_rest_dfb.reserve() as o_lo:
                    o_lo.store(ttl.math.fill(o_lo, 0.0))
                for _ in range(parts):
                    with max_dfb.wait() as before, hi_in_dfb.wait() as top:
                        with max_dfb.reserve() as largest:
                            largest.store(ttl.math.max(before, top))
                        with fade_dfb.reserve() as fade:
                            fade.store(ttl.math.exp(before - ttl.math.max(before, top)))
                        with top_dfb.reserve() as gain:
                            gain.store(ttl.math.exp(top - ttl.math.max(before, top)))
                    with fade_dfb.wait() as fade, top_dfb.wait() as gain:
                        with (
                            sum_hi_dfb.wait() as sum_hi,
                            sum_lo_dfb.wait() as sum_lo,
                            hi_in_dfb.wait() as hi_in,
                            lo_in_dfb.wait() as lo_in,
                        ):
                            with sum_new_dfb.reserve() as sum_new:
                                sum_new.store(
                                    (sum_hi + sum_lo) * ttl.math.broadcast(fade, sum_new, dims=[1])
                                    + (hi_in + lo_in) * ttl.math.broadcast(gain, sum_new, dims=[1])
                                )
                            with sum_new_dfb.wait() as sum_new:
                                with sum_hi_dfb.reserve() as after:
                                    after.store(sum_new)
                                with sum_lo_dfb.reserve() as after:
                                    after.store(
                                        (sum_hi + sum_lo)
                                        * ttl.math.broadcast(fade, after, dims=[1])
                                        + (hi_in + lo_in)
                                        * ttl.math.broadcast(gain, after, dims=[1])
                                        - sum_new
                                    )
                        with (
                            sum_part_dfb.wait() as o_hi,
                            sum_rest_dfb.wait() as o_lo,
                            hi_in_dfb.wait() as hi_in,
                            lo_in_dfb.wait() as lo_in,
                        ):
                            with sum_new_dfb.reserve() as sum_new:
                                sum_new.store(
                                    (o_hi + o_lo) * ttl.math.broadcast(fade, sum_new, dims=[1])
                                    + (hi_in + lo_in) * ttl.math.broadcast(gain, sum_new, dims=[1])
                                )
                            with sum_new_dfb.wait() as sum_new:
                                with sum_part_dfb.reserve() as after:
                                    after.store(sum_new)
                                with sum_rest_dfb.reserve() as after:
                                    after.store(
                                        (o_hi + o_lo) * ttl.math.broadcast(fade, after, dims=[1])
                                        + (hi_in + lo_in)
                                        * ttl.math.broadcast(gain, after, dims=[1])
                                        - sum_new
                                    )
                with max_dfb.wait() as _:
                    pass
                with (
                    sum_hi_dfb.wait() as sum_hi,
                    sum_lo_dfb.wait() as sum_lo,
                    sum_part_dfb.wait() as o_hi,
                    sum_rest_dfb.wait() as o_lo,
                    y_dfb.reserve() as y_blk,
                ):
                    y_blk.store((o_hi + o_lo) * ttl.math.recip(sum_hi + sum_lo))

    return operation
