"""The output layer without its logits: what a step must know of 262,144 logits a row, per lane.

logits = c · tanh(x @ w / c), or x @ w where there is no softcap (Gemma 3).

x [32, H] bf16, normed; w [H, V] bf16, bfp8 or bfp4; all else f32. Node i of C owns the tile columns
[i V/32 / C, (i + 1) V/32 / C). Its *lanes* are the 32 columns within a tile: lane l of node i sees
the ids 32 t + l of its tile columns t. An output has 32 columns for each node, one a lane:
best    [32, 32 · C · depth]  the lane's `depth` largest logits, descending: level d of node i is
                              tile i · depth + d
place   [32, 32 · C · depth]  their tile columns, from the node's first: id = 32 (first + place) + l
sums    [32, 32 · C]          Σ exp(logit - M) over the lane; M is its largest logit
scaled  [32, 32 · C]          Σ exp((logit - M) / T), T the row's temperature
kept    [32, V]               the logits, for whoever asks for whole rows; anything where `keep` is
                              False
constants [32, 160]: tiles filled with `constants(softcap)`. temperatures [32, 64]: 1 / T of each
row in all columns, as a tile of its first 11 bits and a tile of the rest: `split`.

So argmax is a reduction over 32 C numbers, log-sum-exp is log Σ sums · exp(M - m) + m, and the K
best of a row are the K best of 32 C depth: surely, if each lane's last one is below the K-th, which
`best` shows. For K = 64 and C = 110 with ids spread at random, that fails for 3 rows in 1,000 with
depth 3 and for 1 in 70,000 with 4; then read the row in `kept`, or run again with `keep`. Nothing
is merged between nodes.

Numbers. w is cast to f32 and the product summed in f32, to 2^-12 of its largest terms, which is
what the matrix engine has. What reads an f32 tile next cuts it to 11 bits (tf32): this cut defines
the logits (spacing 1/64 from 16 to 32, where bf16 has 1/8), and from there best, place, the order
(equal logits by ascending id) and kept are exact. sums and scaled are good to 1e-3.
tanh does not build for f32 with the stand-in compiler: c - 2c / (1 + e^(2a/c)), the reciprocal as
rsqrt², as recip is off by 1e-3. 2/c comes as a product of two 11-bit numbers.
Gates, not branches: g = [m < v]; m ← v g + (m - m g), v ← m g + (v - v g), level by level. With
`abs` around g the product is the vector engine's, in f32; without, the matrix engine's, which is
not exact. Sums go to L1 by the packer, in f32, a chunk of tile columns at a time, against the
lane's largest so far; the chunks' sums are rescaled at the end.

DRAM: x once, multicast; w once; constants once a node. L1: `l1_bytes`; E4B takes 1.46 MB in bf16
with depth 3, 1.30 in bfp8.
Limits: no split of K, so H up to 2560: in bf16 on a p150 alone and to depth 3. At least `depth`
tile columns a node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import fits, weight_format, whole_tiles
from kernels.runtime import TILE, TILE_BYTES, Format, Grid, like, ttl, ttnn
from kernels.threads import to_all

Kernel = Callable[..., None]
CHUNK = 15
"""Most tile columns whose logits wait for the lane's largest."""
MAX_PLACE = 2048
"""Integers up to here are exact in 11 bits."""


@dataclass(frozen=True)
class LmHeadConfig:
    """Sizes of one `lm_head`."""

    hidden: int
    vocabulary: int
    grid: Grid
    weights: Format = "bf16"
    capped: bool = True
    """Whether there is a softcap; which, the constants say."""
    depth: int = 1
    """Logits that each lane tells: 1 for argmax, 3 for 64 candidates."""
    keep: bool = False
    """Whether to write all logits."""

    def __post_init__(self) -> None:
        whole_tiles("hidden", self.hidden)
        columns = whole_tiles("vocabulary", self.vocabulary)
        weight_format(self.weights)
        if columns < self.nodes:
            raise ValueError(f"vocabulary = {self.vocabulary} has no column for {self.nodes} nodes")
        if self.most_columns > MAX_PLACE:
            raise ValueError(f"vocabulary = {self.vocabulary} gives a node over {MAX_PLACE} tiles")
        if not 1 <= self.depth <= columns // self.nodes:
            raise ValueError(
                f"depth = {self.depth}: 1 to {columns // self.nodes}, a node's columns"
            )
        fits("hidden", self.hidden, self.l1_bytes)

    @property
    def nodes(self) -> int:
        """Cores at work."""
        return self.grid[0] * self.grid[1]

    @property
    def most_columns(self) -> int:
        """The most tile columns that a node has."""
        return -(-(self.vocabulary // TILE) // self.nodes)

    @property
    def chunks(self) -> int:
        """Chunks of a node's tile columns."""
        return -(-self.most_columns // CHUNK)

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        column = 2048 + 4096 + 2 * TILE_BYTES[self.weights] + 4096
        single = 7 + 4 * 2 + 3 + 2 * (self.depth + 1) + 4 * self.chunks + 2 * CHUNK
        return self.hidden // TILE * column + single * 4096


def constants(softcap: float | None) -> tuple[float, ...]:
    """What the five tiles are filled with: two factors of 2 / c, 1, c, -2 c (below all logits)."""
    if softcap is None:
        return (0.0, 0.0, 1.0, 0.0, -(2.0**100))
    target = 2.0 / softcap
    factors = ((n / 1024, _eleven_bits(target * 1024 / n)) for n in range(1024, 2048))
    a, b = min(factors, key=lambda pair: abs(pair[0] * pair[1] - target))
    return (a, b, 1.0, softcap, -2.0 * softcap)


def split(value: float) -> tuple[float, float]:
    """A number as the sum of two of 11 bits."""
    high = _eleven_bits(value)
    return high, _eleven_bits(value - high)


def _eleven_bits(value: float) -> float:
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2048), exponent - 11)


def lm_head(config: LmHeadConfig) -> Kernel:
    """The kernel, called with x, w, constants, temperatures, best, place, sums, scaled, kept."""
    k_tiles, n_tiles = config.hidden // TILE, config.vocabulary // TILE
    grid_x = config.grid[0]
    nodes, chunks, depth = config.nodes, config.chunks, config.depth
    capped, keep = int(config.capped), int(config.keep)  # ranges, because no if may guard work

    @ttl.operation(grid=config.grid)
    def operation(
        x: ttnn.Tensor,
        w: ttnn.Tensor,
        constants: ttnn.Tensor,
        temperatures: ttnn.Tensor,
        best: ttnn.Tensor,
        place: ttnn.Tensor,
        sums: ttnn.Tensor,
        scaled: ttnn.Tensor,
        kept: ttnn.Tensor,
    ) -> None:
        x_net = to_all(config.grid)
        f32 = like("f32")
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_tiles), block_count=1)
        wide_x_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, k_tiles), block_count=1)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(k_tiles, 1), block_count=2)
        wide_w_dfb = ttl.make_dataflow_buffer_like(f32, shape=(k_tiles, 1), block_count=1)
        # Constants: 7 tiles.
        slope_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        slope_too_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        one_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        cap_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        drop_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        high_dfb = ttl.make_dataflow_buffer_like(temperatures, shape=(1, 1), block_count=1)
        low_dfb = ttl.make_dataflow_buffer_like(temperatures, shape=(1, 1), block_count=1)
        # The running levels, as rings: level by level from the front, back in at the end.
        m_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=depth + 1)
        j_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=depth + 1)
        # What goes down the levels: a logit, its place; the next column's place; a gate.
        logit_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=1)
        value_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=2)
        carry_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=2)
        count_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=2)
        gate_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=2)
        # Sums: a chunk's logits, twice; for each chunk its sums and the largest they refer to.
        first_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=CHUNK)
        second_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=CHUNK)
        top_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=1)
        part_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=chunks)
        part_too_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=chunks)
        mark_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=chunks)
        mark_too_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=chunks)
        # Out: logits as they come, then best, place, sums, scaled.
        out_dfb = ttl.make_dataflow_buffer_like(f32, shape=(1, 1), block_count=1)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with slope_dfb.reserve() as slope:
                ttl.copy(constants[0:1, 0:1], slope).wait()
            with slope_too_dfb.reserve() as slope_too:
                ttl.copy(constants[0:1, 1:2], slope_too).wait()
            with one_dfb.reserve() as one:
                ttl.copy(constants[0:1, 2:3], one).wait()
            with cap_dfb.reserve() as cap:
                ttl.copy(constants[0:1, 3:4], cap).wait()
            with drop_dfb.reserve() as drop:
                ttl.copy(constants[0:1, 4:5], drop).wait()
            with high_dfb.reserve() as high:
                ttl.copy(temperatures[0:1, 0:1], high).wait()
            with low_dfb.reserve() as low:
                ttl.copy(temperatures[0:1, 1:2], low).wait()
            with x_dfb.reserve() as x_blk:

                def send(pipe: ttl.Pipe) -> None:
                    ttl.copy(x[0:1, 0:k_tiles], x_blk).wait()
                    ttl.copy(x_blk, pipe).wait()

                def receive(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, x_blk).wait()

                x_net.if_src(send)
                x_net.if_dst(receive)
            for n in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
                with w_dfb.reserve() as w_blk:
                    ttl.copy(w[0:k_tiles, n : n + 1], w_blk).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            columns = ((node + 1) * n_tiles) // nodes - (node * n_tiles) // nodes
            with x_dfb.wait() as x_blk, wide_x_dfb.reserve() as wide_x:
                wide_x.store(ttl.math.typecast(x_blk, ttnn.float32))
            with (
                slope_dfb.wait() as slope,
                slope_too_dfb.wait() as slope_too,
                one_dfb.wait() as one,
                cap_dfb.wait() as cap,
                drop_dfb.wait() as drop,
                high_dfb.wait() as high,
                low_dfb.wait() as low,
                wide_x_dfb.wait() as wide_x,
            ):
                for _ in range(depth):
                    with m_dfb.reserve() as m_next:
                        m_next.store(drop)
                    with j_dfb.reserve() as j_next:
                        j_next.store(one - one)
                with count_dfb.reserve() as count_next:
                    count_next.store(one - one)
                for chunk in range(chunks):
                    for _ in range((chunk * columns) // chunks, ((chunk + 1) * columns) // chunks):
                        with w_dfb.wait() as w_blk, wide_w_dfb.reserve() as wide_w:
                            wide_w.store(ttl.math.typecast(w_blk, ttnn.float32))
                        for _ in range(capped):
                            with wide_w_dfb.wait() as wide_w, logit_dfb.reserve() as logit:
                                logit.store(
                                    cap
                                    + drop
                                    * ttl.math.square(
                                        ttl.math.rsqrt(
                                            one
                                            + ttl.math.exp((wide_x @ wide_w) * slope * slope_too)
                                        )
                                    )
                                )
                        for _ in range(1 - capped):
                            with wide_w_dfb.wait() as wide_w, logit_dfb.reserve() as logit:
                                logit.store(wide_x @ wide_w)
                        with logit_dfb.wait() as logit:
                            with first_dfb.reserve() as first:
                                first.store(logit)
                            with second_dfb.reserve() as second:
                                second.store(logit)
                            with value_dfb.reserve() as value_next:
                                value_next.store(logit)
                            for _ in range(keep):
                                with out_dfb.reserve() as out:
                                    out.store(logit)
                        with count_dfb.wait() as count:
                            with carry_dfb.reserve() as carry_next:
                                carry_next.store(count)
                            with count_dfb.reserve() as count_next:
                                count_next.store(count + one)
                        with gate_dfb.reserve() as gate_next:
                            gate_next.store(one - one)
                        for _ in range(depth):
                            with (
                                value_dfb.wait() as value,
                                carry_dfb.wait() as carry,
                                m_dfb.wait() as m_blk,
                                j_dfb.wait() as j_blk,
                            ):
                                # What was displaced displaces all below, its equals too.
                                with gate_dfb.wait() as gate, gate_dfb.reserve() as gate_next:
                                    gate_next.store(
                                        ttl.math.sign(gate + ttl.math.signbit(m_blk - value))
                                    )
                                with gate_dfb.wait() as gate:
                                    with gate_dfb.reserve() as gate_next:
                                        gate_next.store(gate)
                                    with m_dfb.reserve() as m_next:
                                        m_next.store(
                                            value * ttl.math.abs(gate)
                                            + (m_blk - m_blk * ttl.math.abs(gate))
                                        )
                                    with value_dfb.reserve() as value_next:
                                        value_next.store(
                                            m_blk * ttl.math.abs(gate)
                                            + (value - value * ttl.math.abs(gate))
                                        )
                                    with j_dfb.reserve() as j_next:
                                        j_next.store(j_blk + (carry - j_blk) * gate)
                                    with carry_dfb.reserve() as carry_next:
                                        carry_next.store(carry + (j_blk - carry) * gate)
                        with (
                            value_dfb.wait() as value,
                            carry_dfb.wait() as carry,
                            gate_dfb.wait() as gate,
                        ):
                            pass
                    # The lane's largest so far is at the ring's front: once around.
                    with m_dfb.wait() as m_blk:
                        with top_dfb.reserve() as top:
                            top.store(m_blk)
                        with m_dfb.reserve() as m_next:
                            m_next.store(m_blk)
                    for _ in range(depth - 1):
                        with m_dfb.wait() as m_blk, m_dfb.reserve() as m_next:
                            m_next.store(m_blk)
                    with top_dfb.wait() as top:
                        with mark_dfb.reserve() as mark:
                            mark.store(top)
                        with mark_too_dfb.reserve() as mark_too:
                            mark_too.store(top)
                        with part_dfb.reserve() as part:
                            for _ in range(
                                (chunk * columns) // chunks, ((chunk + 1) * columns) // chunks
                            ):
                                with first_dfb.wait() as first:
                                    part += ttl.math.exp(first - top)
                        with part_too_dfb.reserve() as part_too:
                            for _ in range(
                                (chunk * columns) // chunks, ((chunk + 1) * columns) // chunks
                            ):
                                with second_dfb.wait() as second:
                                    part_too += ttl.math.exp(
                                        (second - top) * high + (second - top) * low
                                    )
                with m_dfb.wait() as m_blk:
                    with top_dfb.reserve() as top:
                        top.store(m_blk)
                    with out_dfb.reserve() as out:
                        out.store(m_blk)
                for _ in range(depth - 1):
                    with m_dfb.wait() as m_blk, out_dfb.reserve() as out:
                        out.store(m_blk)
                for _ in range(depth):
                    with j_dfb.wait() as j_blk, out_dfb.reserve() as out:
                        out.store(j_blk)
                with count_dfb.wait() as count:
                    pass
                with top_dfb.wait() as top:
                    with out_dfb.reserve() as out:
                        for _ in range(chunks):
                            with part_dfb.wait() as part, mark_dfb.wait() as mark:
                                out += part * ttl.math.exp(mark - top)
                    with out_dfb.reserve() as out:
                        for _ in range(chunks):
                            with part_too_dfb.wait() as part_too, mark_too_dfb.wait() as mark_too:
                                out += part_too * ttl.math.exp(
                                    (mark_too - top) * high + (mark_too - top) * low
                                )

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for _ in range(keep):
                for n in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
                    with out_dfb.wait() as out:
                        ttl.copy(out, kept[0:1, n : n + 1]).wait()
            for d in range(depth):
                tile = node * depth + d
                with out_dfb.wait() as out:
                    ttl.copy(out, best[0:1, tile : tile + 1]).wait()
            for d in range(depth):
                tile = node * depth + d
                with out_dfb.wait() as out:
                    ttl.copy(out, place[0:1, tile : tile + 1]).wait()
            with out_dfb.wait() as out:
                ttl.copy(out, sums[0:1, node : node + 1]).wait()
            with out_dfb.wait() as out:
                ttl.copy(out, scaled[0:1, node : node + 1]).wait()

    return operation
