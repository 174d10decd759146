"""o = softmax(q · kᵀ + mask) · v for decode rows, a unit's positions split over `chain` cores.

Operands as in kernels/attention.py, and between mask and o a scratch tensor:

q, o     [U · 32, D] bf16
k, v     [U · S, D] bf16
mask     [U · 32, S] bf16
scratch  [U · chain · 32, 2 D + 96] bf16: what each node hands on

1. Node c of a group takes the blocks [c N / chain, (c + 1) N / chain) of its unit's N blocks of
   positions and runs kernels/attention.py's online softmax over them, up to the division.
2. It writes its sums to its row of scratch, each as two bf16 tiles (hi, lo): o (2 D / 32 tiles),
   the running maximum and l (3 tiles).
3. A one-tile multicast from node (0, 0) to all is the barrier: its sender waits until every node
   has come to receive, so when it arrives, all of scratch is written.
4. Node c merges tile columns [c D / 32 / chain, …) of its unit's o over the group's rows of
   scratch, by the same rule, divides, rounds once and writes them.

A chain of pipes from node to node would be serial, and the code of its pipes does not fit: every
node carries that of every pipe, 0.6 KB each, of 70 KB.
Cores: group g is the nodes [g · chain, (g + 1) · chain) and owns the units [g U / G, (g + 1) U / G)
of G = nodes / chain groups; what is left over of the grid only takes part in the barrier.
DRAM: k, v, mask once, q `chain` times, o once; scratch U · chain · (2 D / 32 + 3) tiles written,
and read by those who merge: once, but its 3 tiles of maximum and sum D / 32 times.
L1: `DecodeAttentionConfig.l1_bytes`. Dataflow buffers: all 32, two of them the compiler's own.
Limits: step 4 reads 5 · chain tiles one after the other for each tile column, so that a chain of 8
to 16 is likely better than one of all nodes; and a unit needs at least `chain` blocks.
Error: as kernels/attention.py. Longer than a file should be: a thread cannot call a function, so
that file's softmax stands here again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.attention import LOWEST, check_sizes, softmax_bytes
from kernels.limits import fits
from kernels.runtime import TILE, Grid, like, ttl, ttnn
from kernels.threads import to_all

DecodeAttention = Callable[
    [ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None
]


@dataclass(frozen=True)
class DecodeAttentionConfig:
    """Sizes of one `decode_attention`; `block` in tiles of positions."""

    units: int
    s: int
    d: int
    grid: Grid
    chain: int
    block: int = 4

    def __post_init__(self) -> None:
        check_sizes(self.units, self.s, self.d, self.block)
        nodes = self.grid[0] * self.grid[1]
        if not 2 <= self.chain <= nodes:
            raise ValueError(f"chain = {self.chain}: 2 to {nodes}; for 1 use flash_attention")
        if self.chain > self.blocks:
            raise ValueError(f"chain = {self.chain} is more than the {self.blocks} blocks of s")
        fits("block", self.block, self.l1_bytes, "lower it")

    @property
    def blocks(self) -> int:
        """Blocks of positions a unit."""
        return self.s // TILE // self.block

    @property
    def groups(self) -> int:
        """Groups of `chain` nodes that the grid holds."""
        return self.grid[0] * self.grid[1] // self.chain

    @property
    def scratch_shape(self) -> tuple[int, int]:
        """Of the scratch tensor."""
        return self.units * self.chain * TILE, 2 * self.d + 3 * TILE

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        return softmax_bytes(self.block, self.d // TILE) + 2048 * 12


def decode_attention(config: DecodeAttentionConfig) -> DecodeAttention:
    """Operands: q, k, v, mask, scratch, o."""
    block, d_tiles, blocks, units = config.block, config.d // TILE, config.blocks, config.units
    grid_x, grid_y = config.grid
    nodes, chain, groups = grid_x * grid_y, config.chain, config.groups
    lowest = LOWEST
    maximum = 2 * d_tiles

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(
        q: ttnn.Tensor,
        k: ttnn.Tensor,
        v: ttnn.Tensor,
        mask: ttnn.Tensor,
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
        row_dfb = ttl.make_dataflow_buffer_like(scratch, shape=(1, d_tiles), block_count=2)
        stat_dfb = ttl.make_dataflow_buffer_like(scratch, shape=(1, 1), block_count=2)
        arrived_dfb = ttl.make_dataflow_buffer_like(scratch, shape=(1, 1), block_count=1)
        in_dfb = ttl.make_dataflow_buffer_like(scratch, shape=(1, 1), block_count=2)
        gain_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=1)
        o_hi_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=2)
        o_lo_dfb = ttl.make_dataflow_buffer_like(half, shape=(1, 1), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(o, shape=(1, 1), block_count=2)

        # Defined first because it multicasts: the other thread's network takes rectangles turned.
        @ttl.datamovement()
        def write():
            """What the softmax writes; the barrier; then what the merge reads."""
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            group = node // chain
            c = node % chain
            at_work = (groups - 1 - group + nodes) // nodes
            first = (group * units) // groups
            last = first + (((group + 1) * units) // groups - first) * at_work
            for u in range(first, last):
                r = u * chain + c
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
            for u in range(first, last):
                for n in range((c * d_tiles) // chain, ((c + 1) * d_tiles) // chain):
                    for r in range(u * chain, (u + 1) * chain):
                        for m in range(maximum, maximum + 3):
                            with in_dfb.reserve() as part_in:
                                ttl.copy(scratch[r : r + 1, m : m + 1], part_in).wait()
                        with in_dfb.reserve() as part_in:
                            ttl.copy(scratch[r : r + 1, n : n + 1], part_in).wait()
                        with in_dfb.reserve() as part_in:
                            ttl.copy(
                                scratch[r : r + 1, d_tiles + n : d_tiles + n + 1], part_in
                            ).wait()

        @ttl.datamovement()
        def read():
            """What the softmax reads; then, of the merge, what it writes."""
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            group = node // chain
            c = node % chain
            at_work = (groups - 1 - group + nodes) // nodes
            first = (group * units) // groups
            last = first + (((group + 1) * units) // groups - first) * at_work
            for u in range(first, last):
                with q_dfb.reserve() as q_blk:
                    ttl.copy(q[u : u + 1, 0:d_tiles], q_blk).wait()
                for b in range((c * blocks) // chain, ((c + 1) * blocks) // chain):
                    s = b * block
                    t = (u * blocks + b) * block
                    with mask_dfb.reserve() as mask_blk:
                        ttl.copy(mask[u : u + 1, s : s + block], mask_blk).wait()
                    with k_dfb.reserve() as k_blk:
                        ttl.copy(k[t : t + block, 0:d_tiles], k_blk).wait()
                    with v_dfb.reserve() as v_blk:
                        ttl.copy(v[t : t + block, 0:d_tiles], v_blk).wait()
            for u in range(first, last):
                for n in range((c * d_tiles) // chain, ((c + 1) * d_tiles) // chain):
                    with y_dfb.wait() as y_blk:
                        ttl.copy(y_blk, o[u : u + 1, n : n + 1]).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            group = node // chain
            c = node % chain
            at_work = (groups - 1 - group + nodes) // nodes
            first = (group * units) // groups
            last = first + (((group + 1) * units) // groups - first) * at_work
            with one_dfb.reserve() as one:
                one.store(ttl.math.fill(one, 1.0))
            with ones_dfb.reserve() as ones:
                ones.store(ttl.math.fill(ones, 1.0))
            with one_dfb.wait() as one, ones_dfb.wait() as ones:
                for _ in range(first, last):
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
                        for _ in range((c * blocks) // chain, ((c + 1) * blocks) // chain):
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
            for _ in range(first, last):
                for _ in range((c * d_tiles) // chain, ((c + 1) * d_tiles) // chain):
                    with max_dfb.reserve() as largest:
                        largest.store(ttl.math.fill(largest, lowest))
                    with sum_hi_dfb.reserve() as sum_hi:
                        sum_hi.store(ttl.math.fill(sum_hi, 0.0))
                    with sum_lo_dfb.reserve() as sum_lo:
                        sum_lo.store(ttl.math.fill(sum_lo, 0.0))
                    with o_hi_dfb.reserve() as o_hi:
                        o_hi.store(ttl.math.fill(o_hi, 0.0))
                    with o_lo_dfb.reserve() as o_lo:
                        o_lo.store(ttl.math.fill(o_lo, 0.0))
                    for _ in range(chain):
                        with max_dfb.wait() as before, in_dfb.wait() as top:
                            with max_dfb.reserve() as largest:
                                largest.store(ttl.math.max(before, top))
                            with fade_dfb.reserve() as fade:
                                fade.store(ttl.math.exp(before - ttl.math.max(before, top)))
                            with gain_dfb.reserve() as gain:
                                gain.store(ttl.math.exp(top - ttl.math.max(before, top)))
                        with fade_dfb.wait() as fade, gain_dfb.wait() as gain:
                            with in_dfb.wait() as part_in, sum_part_dfb.reserve() as sum_part:
                                sum_part.store(part_in)
                            with in_dfb.wait() as part_in, sum_rest_dfb.reserve() as sum_rest:
                                sum_rest.store(part_in)
                            with (
                                sum_hi_dfb.wait() as sum_hi,
                                sum_lo_dfb.wait() as sum_lo,
                                sum_part_dfb.wait() as sum_part,
                                sum_rest_dfb.wait() as sum_rest,
                            ):
                                with sum_new_dfb.reserve() as sum_new:
                                    sum_new.store(
                                        (sum_hi + sum_lo)
                                        * ttl.math.broadcast(fade, sum_new, dims=[1])
                                        + (sum_part + sum_rest)
                                        * ttl.math.broadcast(gain, sum_new, dims=[1])
                                    )
                                with sum_new_dfb.wait() as sum_new:
                                    with sum_hi_dfb.reserve() as after:
                                        after.store(sum_new)
                                    with sum_lo_dfb.reserve() as after:
                                        after.store(
                                            (sum_hi + sum_lo)
                                            * ttl.math.broadcast(fade, after, dims=[1])
                                            + (sum_part + sum_rest)
                                            * ttl.math.broadcast(gain, after, dims=[1])
                                            - sum_new
                                        )
                            with in_dfb.wait() as part_in, sum_part_dfb.reserve() as sum_part:
                                sum_part.store(part_in)
                            with in_dfb.wait() as part_in, sum_rest_dfb.reserve() as sum_rest:
                                sum_rest.store(part_in)
                            with (
                                o_hi_dfb.wait() as o_hi,
                                o_lo_dfb.wait() as o_lo,
                                sum_part_dfb.wait() as sum_part,
                                sum_rest_dfb.wait() as sum_rest,
                            ):
                                with sum_new_dfb.reserve() as sum_new:
                                    sum_new.store(
                                        (o_hi + o_lo) * ttl.math.broadcast(fade, sum_new, dims=[1])
                                        + (sum_part + sum_rest)
                                        * ttl.math.broadcast(gain, sum_new, dims=[1])
                                    )
                                with sum_new_dfb.wait() as sum_new:
                                    with o_hi_dfb.reserve() as after:
                                        after.store(sum_new)
                                    with o_lo_dfb.reserve() as after:
                                        after.store(
                                            (o_hi + o_lo)
                                            * ttl.math.broadcast(fade, after, dims=[1])
                                            + (sum_part + sum_rest)
                                            * ttl.math.broadcast(gain, after, dims=[1])
                                            - sum_new
                                        )
                    with max_dfb.wait() as _:
                        pass
                    with (
                        sum_hi_dfb.wait() as sum_hi,
                        sum_lo_dfb.wait() as sum_lo,
                        o_hi_dfb.wait() as o_hi,
                        o_lo_dfb.wait() as o_lo,
                        y_dfb.reserve() as y_blk,
                    ):
                        y_blk.store((o_hi + o_lo) * ttl.math.recip(sum_hi + sum_lo))

    return operation
