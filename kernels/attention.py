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
scratch             [U · (P + G) · 32, 2 D + 96] bf16: what parts and groups of a unit hand on

Masks may be block floats, where 0 is exact and -30000 some number near it.

The places of a unit are P = ceil(s / part) + 1 parts: `part` places each of the cache and, last,
staging. Where a slot's cache can have more than 16 parts, 16 of them make a group, from the first
on, of which there are G.

1. A node runs an online softmax over each of its pairs (unit, part), `block` tiles of places a
   block:

       s = mask + q · kᵀ               only to find the largest: m' = max(m, max s)
       p = exp((mask - m') + q · kᵀ)   in Dst's float32 from the product to p's one rounding
       l = l · exp(m - m') + p · 1
       o = o · exp(m - m') + p · v

   and writes o, m and l to its row of scratch.
2. A one-tile multicast from node (0, 0) to all is the barrier: its sender waits until every node
   has come to receive, so when it arrives, all of scratch is written.
3. If there are groups, a node merges its items (unit, group, columns of o) over the parts in order,
   by the same rule, and writes them to rows of scratch as well; then 2 again.
4. A node merges its items (unit, columns of o) over the parts, or over the groups and then staging,
   divides, rounds once and writes them.

What a row gets depends on what it sees alone, bit for bit. Which places a block, a part and a group
have is fixed by `part` and `stride`, the same for every s, batch and grid; what a row does not see
leaves no trace: after a block, part or group that it sees, exp(m - m') is exactly 1 and p or a
part's factor exactly 0; before the first, exp(-30000 - m') = 0 wipes what there was. So `part` and
`stride` are constants of a kind of layer. tests/kernels/unseen.py shows it, on simulated chips too.

Scores are not scaled (Gemma 4: 1.0). A row that sees nothing gets some finite mean of v: its
scores are at most 64 above the largest, rounded to 128, so that no exponential overflows.
The scores are taken twice: a bf16 score of 30 is off by up to 0.06, and so would be its exponential
by 6 %. m' comes from the bf16 ones, for it need not be the true largest, only the same for all.
l and o run as pairs of bf16 tiles (hi, lo), sixteen bits together, and so do the products p · 1 and
p · v: part = p · v and rest = part + (-p) · v = part - p · v. Buffers of float32 would be shorter
to write, but TT-Lang reprograms the packer before each stage while it may still pack the stage
before: stages whose formats differ race, on a chip as well. Here every buffer that is packed is
bf16: the mask, the only operand of another format, is cast first.
Cost over a softmax that takes each product once, a block: 2 · block · D / 32 tile products more.
kᵀ is a transpose of tiles, exact in bf16: block · D / 32 tile moves; the compiler has no product
with a transposed operand.

Error: below 2 roundings at Gemma's sizes. It grows with the scores, whatever the kernel does: the
matrix engine rounds the products of each eight dims to 2⁻¹² of their largest, and the exponential
turns that into a relative error. At D = 256 a score of 11 is off by up to 0.003 and one of 37 by
0.013; at D = 32, where each product is a larger part of the score, one of 44 by 0.023, six
roundings of its exponential. So small heads with scores around 40 are beyond 2 roundings, and 3.3
were seen at D = 64 with scores of 200. The functional simulator shows none of this.
Cores: node i of C owns the pairs [i U P / C, (i + 1) U P / C), unit by unit, and the items alike;
at least two nodes, for the barrier.
DRAM: q P times, o once; k, v, k_staged, v_staged `waves` times, mask, mask_staged K times; scratch
written once and read once, but m and l, three of its 2 D / 32 + 3 tiles a row, once for each item
that reads them: a unit has D / 32 / `columns` of these.
L1: `AttentionConfig.l1_bytes`: 1.00 MB at D = 512, 0.51 MB at 256.
Limits: the parts of a group, and then the groups, are read one after the other: of 131,072 places
by 1,024, 16 and 9. Sums over a chain of pipes would be serial too, and the code of its pipes does
not fit: every node carries that of every pipe, 0.6 KB each, of 70 KB, and this program takes 68 at
D = 512. So what pairs and merges share stands in one loop, and a merge takes l as it takes a tile
of o. Longer than a file should be: a compute thread can call nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels import casts
from kernels.limits import fits, whole_tiles
from kernels.runtime import TILE, Grid, like, ttl, ttnn
from kernels.threads import to_all
from kernels.units import GROUP, STAGED

Attention = Callable[..., None]

BLOCKS = (4, 2)
"""Tiles of places that a softmax takes at once: the first that divides stride and part."""
MOST_COLUMNS = 8
"""Tiles of o that are merged at once, where there are groups: a quarter of o where not."""
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
        for name in ("stride", "part"):
            whole_tiles(name, getattr(self, name), BLOCKS[-1] * TILE)
        whole_tiles("s", self.s, self.block * TILE)
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
    def block(self) -> int:
        """Tiles of places that a softmax takes at once."""
        both = (self.stride, self.part)
        return next(b for b in BLOCKS if not any(places % (b * TILE) for places in both))

    @property
    def parts(self) -> int:
        """Parts that a unit's places fall into, staging included."""
        return -(-self.s // self.part) + 1

    @property
    def groups(self) -> int:
        """Of the cache's parts; 0: so few that there are none."""
        return -(-(self.parts - 1) // GROUP) if self.stride > GROUP * self.part else 0

    @property
    def columns(self) -> int:
        """Tiles of o that are merged at once."""
        tiles = self.d // TILE
        most = MOST_COLUMNS if self.groups else max(1, tiles // 4)
        return max(n for n in range(1, most + 1) if tiles % n == 0)

    @property
    def items(self) -> int:
        """Of a unit: who merges its parts."""
        return self.d // TILE // self.columns

    @property
    def scratch_shape(self) -> tuple[int, int]:
        """Of the scratch tensor."""
        return self.units * (self.parts + self.groups) * TILE, 2 * self.d + 3 * TILE

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take, two of the compiler's included."""
        d, b = self.d // TILE, self.block
        return 2048 * ((5 * b + 3) * d + 5 * b + 9 * self.columns + 27)


def attention(config: AttentionConfig) -> Attention:
    """Operands: q, k, v, k_staged, v_staged, mask, mask_staged, scratch, o."""
    casts.let_them_pass()  # masks that are bf16 already
    d_tiles, units, parts = config.d // TILE, config.units, config.parts
    block, columns, column_blocks = config.block, config.columns, config.items
    kv_heads, owners, stride = (
        config.kv_heads,
        config.slots * config.kv_heads,
        config.stride // TILE,
    )
    cached = min(config.s, config.part) // TILE // block
    staged = STAGED // TILE // block
    grid_x, nodes = config.grid[0], config.grid[0] * config.grid[1]
    pairs, maximum = units * parts, 2 * d_tiles
    lowest = LOWEST
    # what the last merge takes: rows `first_row` + unit · `rows` + i, i < `merged`, then staging's
    levels, groups = (2, config.groups) if config.groups else (1, 1)
    merged, rows, first_row = parts - 1, parts, 0
    if config.groups:
        merged, rows, first_row = groups, groups, pairs
    missing = groups * GROUP - (parts - 1)  # parts of the last group
    group_items, items = units * config.groups * column_blocks, units * column_blocks
    group = GROUP

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

        def buffer(rows: int, columns: int, count: int = 1) -> ttl.DataflowBuffer:
            return ttl.make_dataflow_buffer_like(
                like("bf16"), shape=(rows, columns), block_count=count
            )

        q_dfb = buffer(1, d_tiles)
        mask_dfb = ttl.make_dataflow_buffer_like(mask, shape=(1, block), block_count=2)
        k_dfb = buffer(block, d_tiles, 2)
        v_dfb = buffer(block, columns, 2 * column_blocks)
        one_dfb, ones_dfb = buffer(1, 1), buffer(block, 1)
        turned_dfb = buffer(d_tiles, block)
        score_dfb = buffer(1, block)
        p_dfb = buffer(1, block)  # the mask before that
        top_dfb, max_dfb, fade_dfb = buffer(1, 1), buffer(1, 1, 2), buffer(1, 1)
        sum_part_dfb, sum_rest_dfb, sum_new_dfb = buffer(1, 1, 2), buffer(1, 1, 2), buffer(1, 1)
        # l; in a merge l and then a tile of o each
        sum_hi_dfb, sum_lo_dfb = (buffer(1, 1, columns + 2) for _ in range(2))
        part_dfb, rest_dfb, new_dfb = (buffer(1, columns) for _ in range(3))
        hi_dfb, lo_dfb = (buffer(1, columns, column_blocks + 1) for _ in range(2))
        row_dfb, stat_dfb = buffer(1, columns, 2), buffer(1, 1, 2)
        arrived_dfb = buffer(1, 1)
        in_dfb, lo_in_dfb = buffer(1, 1, 4), buffer(1, 1, 4)

        # Defined first because it multicasts: the other thread's network takes rectangles turned.
        @ttl.datamovement()
        def write():
            """What parts hand on; a barrier before each merge; what that writes."""
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for r in range((node * pairs) // nodes, ((node + 1) * pairs) // nodes):
                for n in range(0, 2 * column_blocks):
                    c = n * columns
                    with row_dfb.wait() as row:
                        ttl.copy(row, scratch[r : r + 1, c : c + columns]).wait()
                for n in range(maximum, maximum + 3):
                    with stat_dfb.wait() as stat:
                        ttl.copy(stat, scratch[r : r + 1, n : n + 1]).wait()
            for level in range(levels):
                grouping = (levels - 1) * (1 - level)
                with arrived_dfb.reserve() as arrived:

                    def send(pipe: ttl.Pipe) -> None:
                        ttl.copy(q[0:1, 0:1], arrived).wait()
                        ttl.copy(arrived, pipe).wait()

                    def receive(pipe: ttl.Pipe) -> None:
                        ttl.copy(pipe, arrived).wait()

                    barrier.if_src(send)
                    barrier.if_dst(receive)
                for item in range(
                    (node * group_items) // nodes * grouping,
                    ((node + 1) * group_items) // nodes * grouping,
                ):
                    r = pairs + item // column_blocks
                    c = item % column_blocks * columns
                    first = 1 // (1 + c)  # m and l once for all columns
                    for n in range(maximum, maximum + 3):
                        with stat_dfb.wait() as stat:
                            for _ in range(first):
                                ttl.copy(stat, scratch[r : r + 1, n : n + 1]).wait()
                    for n in range(c, c + columns):
                        with stat_dfb.wait() as stat:
                            ttl.copy(stat, scratch[r : r + 1, n : n + 1]).wait()
                        with stat_dfb.wait() as stat:
                            ttl.copy(stat, scratch[r : r + 1, d_tiles + n : d_tiles + n + 1]).wait()
                for item in range(
                    (node * items) // nodes * (1 - grouping),
                    ((node + 1) * items) // nodes * (1 - grouping),
                ):
                    u = item // column_blocks
                    c = item % column_blocks * columns
                    for n in range(c, c + columns):
                        with stat_dfb.wait() as stat:
                            ttl.copy(stat, o[u : u + 1, n : n + 1]).wait()

        @ttl.datamovement()
        def read():
            """What the softmaxes read; then what the merges read."""
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
                    for n in range(column_blocks):
                        c = n * columns
                        with v_dfb.reserve() as v_blk:
                            ttl.copy(v[t : t + block, c : c + columns], v_blk).wait()
                for b in range(0, staged * last):
                    s = b * block
                    t = owner * staged * block + s
                    with mask_dfb.reserve() as mask_blk:
                        ttl.copy(mask_staged[chunk : chunk + 1, s : s + block], mask_blk).wait()
                    with k_dfb.reserve() as k_blk:
                        ttl.copy(k_staged[t : t + block, 0:d_tiles], k_blk).wait()
                    for n in range(column_blocks):
                        c = n * columns
                        with v_dfb.reserve() as v_blk:
                            ttl.copy(v_staged[t : t + block, c : c + columns], v_blk).wait()
            for level in range(levels):
                grouping = (levels - 1) * (1 - level)
                with arrived_dfb.wait() as _:
                    pass
                for item in range(
                    (node * group_items) // nodes * grouping
                    + (node * items) // nodes * (1 - grouping),
                    ((node + 1) * group_items) // nodes * grouping
                    + ((node + 1) * items) // nodes * (1 - grouping),
                ):
                    g = item // column_blocks  # group, or unit
                    c = item % column_blocks * columns
                    of_group = g // groups * parts + g % groups * group
                    first = of_group * grouping + (first_row + g * rows) * (1 - grouping)
                    in_group = group - missing * ((g % groups + 1) // groups)
                    for i in range(in_group * grouping + (merged + 1) * (1 - grouping)):
                        staging = i // merged * (1 - grouping)
                        r = (first + i) * (1 - staging) + ((g + 1) * parts - 1) * staging
                        with in_dfb.reserve() as top:
                            ttl.copy(scratch[r : r + 1, maximum : maximum + 1], top).wait()
                        with in_dfb.reserve() as hi_in, lo_in_dfb.reserve() as lo_in:
                            hi = ttl.copy(scratch[r : r + 1, maximum + 1 : maximum + 2], hi_in)
                            lo = ttl.copy(scratch[r : r + 1, maximum + 2 : maximum + 3], lo_in)
                            hi.wait()
                            lo.wait()
                        for n in range(c, c + columns):
                            with in_dfb.reserve() as hi_in, lo_in_dfb.reserve() as lo_in:
                                hi = ttl.copy(scratch[r : r + 1, n : n + 1], hi_in)
                                lo = ttl.copy(
                                    scratch[r : r + 1, d_tiles + n : d_tiles + n + 1], lo_in
                                )
                                hi.wait()
                                lo.wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with one_dfb.reserve() as one:
                one.store(ttl.math.fill(one, 1.0))
            with ones_dfb.reserve() as ones:
                ones.store(ttl.math.fill(ones, 1.0))
            with one_dfb.wait() as one, ones_dfb.wait() as ones:
                # One loop over pairs, groups' items and items: what they share is there once, as
                # a program may not be longer.
                for stage in range(3):
                    pairing = 1 // (1 + stage)
                    merging = stage // 2
                    grouping = 1 - pairing - merging
                    for work in range(
                        (node * pairs) // nodes * pairing
                        + (node * group_items) // nodes * grouping
                        + (node * items) // nodes * merging,
                        ((node + 1) * pairs) // nodes * pairing
                        + ((node + 1) * group_items) // nodes * grouping
                        + ((node + 1) * items) // nodes * merging,
                    ):
                        with max_dfb.reserve() as largest:
                            largest.store(ttl.math.fill(largest, lowest))
                        for _ in range(1 + columns * (1 - pairing)):
                            with sum_hi_dfb.reserve() as sum_hi:
                                sum_hi.store(ttl.math.fill(sum_hi, 0.0))
                            with sum_lo_dfb.reserve() as sum_lo:
                                sum_lo.store(ttl.math.fill(sum_lo, 0.0))
                        for _ in range(column_blocks * pairing):
                            with hi_dfb.reserve() as hi:
                                hi.store(ttl.math.fill(hi, 0.0))
                            with lo_dfb.reserve() as lo:
                                lo.store(ttl.math.fill(lo, 0.0))
                        for _ in range(pairing):
                            last = (work % parts + 1) // parts
                            with q_dfb.wait() as q_blk:
                                for _ in range(0, cached + (staged - cached) * last):
                                    with mask_dfb.wait() as mask_blk, p_dfb.reserve() as bias:
                                        bias.store(ttl.math.typecast(mask_blk, ttnn.bfloat16))
                                    with k_dfb.wait() as k_blk, turned_dfb.reserve() as turned:
                                        turned.store(ttl.math.transpose(k_blk))
                                    with turned_dfb.wait() as turned:
                                        with p_dfb.wait() as unseen:
                                            with score_dfb.reserve() as score:
                                                score.store(unseen + q_blk @ turned)
                                            with (
                                                score_dfb.wait() as score,
                                                top_dfb.reserve() as top,
                                            ):
                                                top.store(ttl.math.reduce_max(score, one, dims=[1]))
                                            with max_dfb.wait() as before, top_dfb.wait() as top:
                                                with max_dfb.reserve() as largest:
                                                    largest.store(ttl.math.max(before, top))
                                                with fade_dfb.reserve() as fade:
                                                    fade.store(
                                                        ttl.math.exp(
                                                            before - ttl.math.max(before, top)
                                                        )
                                                    )
                                                with score_dfb.reserve() as bias:
                                                    bias.store(
                                                        unseen
                                                        - ttl.math.broadcast(
                                                            ttl.math.max(before, top),
                                                            bias,
                                                            dims=[1],
                                                        )
                                                    )
                                        with score_dfb.wait() as bias, p_dfb.reserve() as p:
                                            p.store(ttl.math.exp(bias + q_blk @ turned))
                                    with p_dfb.wait() as p:
                                        with score_dfb.reserve() as minus:
                                            minus.store(ttl.math.neg(p))
                                        with sum_part_dfb.reserve() as sum_part:
                                            sum_part.store(p @ ones)
                                        with (
                                            score_dfb.wait() as minus,
                                            sum_part_dfb.wait() as sum_part,
                                            fade_dfb.wait() as fade,
                                        ):
                                            with sum_rest_dfb.reserve() as sum_rest:
                                                sum_rest.store(sum_part + minus @ ones)
                                            with (
                                                sum_hi_dfb.wait() as sum_hi,
                                                sum_lo_dfb.wait() as sum_lo,
                                                sum_rest_dfb.wait() as sum_rest,
                                            ):
                                                with sum_new_dfb.reserve() as sum_new:
                                                    sum_new.store(
                                                        (sum_hi + sum_lo)
                                                        * ttl.math.broadcast(
                                                            fade, sum_new, dims=[1]
                                                        )
                                                        + sum_part
                                                        - sum_rest
                                                    )
                                                with sum_new_dfb.wait() as sum_new:
                                                    with sum_hi_dfb.reserve() as after:
                                                        after.store(sum_new)
                                                    with sum_lo_dfb.reserve() as after:
                                                        after.store(
                                                            (sum_hi + sum_lo)
                                                            * ttl.math.broadcast(
                                                                fade, after, dims=[1]
                                                            )
                                                            + sum_part
                                                            - sum_rest
                                                            - sum_new
                                                        )
                                            for _ in range(column_blocks):
                                                with v_dfb.wait() as v_blk:
                                                    with part_dfb.reserve() as part:
                                                        part.store(p @ v_blk)
                                                    with part_dfb.wait() as part:
                                                        with rest_dfb.reserve() as rest:
                                                            rest.store(part + minus @ v_blk)
                                                        with (
                                                            hi_dfb.wait() as hi,
                                                            lo_dfb.wait() as lo,
                                                            rest_dfb.wait() as rest,
                                                        ):
                                                            with new_dfb.reserve() as new:
                                                                new.store(
                                                                    (hi + lo)
                                                                    * ttl.math.broadcast(
                                                                        fade, new, dims=[1]
                                                                    )
                                                                    + part
                                                                    - rest
                                                                )
                                                            with new_dfb.wait() as new:
                                                                with hi_dfb.reserve() as after:
                                                                    after.store(new)
                                                                with lo_dfb.reserve() as after:
                                                                    after.store(
                                                                        (hi + lo)
                                                                        * ttl.math.broadcast(
                                                                            fade, after, dims=[1]
                                                                        )
                                                                        + part
                                                                        - rest
                                                                        - new
                                                                    )
                        in_group = group - missing * (
                            (work // column_blocks % groups + 1) // groups
                        )
                        for _ in range(in_group * grouping + (merged + 1) * merging):
                            with max_dfb.wait() as before, in_dfb.wait() as top:
                                with max_dfb.reserve() as largest:
                                    largest.store(ttl.math.max(before, top))
                                with fade_dfb.reserve() as fade:
                                    fade.store(ttl.math.exp(before - ttl.math.max(before, top)))
                                with top_dfb.reserve() as gain:
                                    gain.store(ttl.math.exp(top - ttl.math.max(before, top)))
                            with fade_dfb.wait() as fade, top_dfb.wait() as gain:
                                for _ in range(1 + columns):
                                    with (
                                        sum_hi_dfb.wait() as sum_hi,
                                        sum_lo_dfb.wait() as sum_lo,
                                        in_dfb.wait() as hi_in,
                                        lo_in_dfb.wait() as lo_in,
                                    ):
                                        with sum_new_dfb.reserve() as sum_new:
                                            sum_new.store(
                                                (sum_hi + sum_lo)
                                                * ttl.math.broadcast(fade, sum_new, dims=[1])
                                                + (hi_in + lo_in)
                                                * ttl.math.broadcast(gain, sum_new, dims=[1])
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
                        for _ in range(column_blocks * pairing):
                            with hi_dfb.wait() as hi, row_dfb.reserve() as row:
                                row.store(hi)
                        for _ in range(column_blocks * pairing):
                            with lo_dfb.wait() as lo, row_dfb.reserve() as row:
                                row.store(lo)
                        for _ in range(1 - merging):
                            with max_dfb.wait() as largest, stat_dfb.reserve() as stat:
                                stat.store(largest)
                            for _ in range(1 + columns * grouping):
                                with sum_hi_dfb.wait() as sum_hi, stat_dfb.reserve() as stat:
                                    stat.store(sum_hi)
                                with sum_lo_dfb.wait() as sum_lo, stat_dfb.reserve() as stat:
                                    stat.store(sum_lo)
                        for _ in range(merging):
                            with max_dfb.wait() as _:
                                pass
                            with sum_hi_dfb.wait() as sum_hi, fade_dfb.reserve() as l_hi:
                                l_hi.store(sum_hi)
                            with sum_lo_dfb.wait() as sum_lo, top_dfb.reserve() as l_lo:
                                l_lo.store(sum_lo)
                            with fade_dfb.wait() as l_hi, top_dfb.wait() as l_lo:
                                for _ in range(columns):
                                    with (
                                        sum_hi_dfb.wait() as sum_hi,
                                        sum_lo_dfb.wait() as sum_lo,
                                        stat_dfb.reserve() as stat,
                                    ):
                                        stat.store((sum_hi + sum_lo) * ttl.math.recip(l_hi + l_lo))

    return operation
