"""From raw projections to q, k, v in one launch: RMS per head, then rotary on q and k.

    q = rope(RMS(raw q) · q_norm)   k = rope(RMS(raw k) · k_norm)   v = RMS(raw v)
    RMS(h) = h · (mean(h²) + eps)^-½   over a head's D values

qkv [32, (heads + 2 kv_heads) · D] bf16: q's heads, k's, v's, as one projection leaves them. With
`k_eq_v` there is no third part and v = RMS(raw k).
q_norm, k_norm [32, D] f32, the weight's row repeated 32 times; cos, sin [32, D / 2] bf16, one row a
token (see rotary.py); q [32, heads · D], k and v [32, kv_heads · D] bf16. D is a multiple of 128.

qkv_heads   the above.
q_heads     q alone, from qkv's first columns: layers that share another layer's keys and values.

Cores: node i takes head i of q, then of k, then of v; further nodes are idle. So the grid has at
least as many nodes as there are heads: 12 for E4B, 10 for E2B, of any layout. (Finer work would not
pay: each node needs its whole head's sum, which is over half of the work.)
Inside a core all is float32, in halves l, h of a head, since rotary pairs d with d + D / 2: cast,
square, sum as a matmul with a block of 1 / D, rsqrt, scale, rotate, cast. So each output rounds
once; the reference in bf16 rounds the norm as well. On a chip float32 operands pass as tf32, cut
off: 1.65 roundings are reached, in the simulator, which keeps float32, 0.9.
DRAM: qkv once (with `k_eq_v` k's part twice), the outputs once; a norm weight, cos and sin once a
node: 96 KB a node beside a head of 32 KB at D 512. L1: see `l1_bytes`, 464 KB at D 512.
Limits: stages that write float32 and bf16 follow each other. TT-Lang sets the packer up for each
while it may still pack the one before; on the simulators it waits (see tests/chip/README.md), on a
card nobody has seen it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import epsilon, fits, whole_tiles
from kernels.runtime import TILE, Grid, like, ttl, ttnn

QKernel = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]
QkvKernel = Callable[
    [
        ttnn.Tensor,
        ttnn.Tensor,
        ttnn.Tensor,
        ttnn.Tensor,
        ttnn.Tensor,
        ttnn.Tensor,
        ttnn.Tensor,
        ttnn.Tensor,
    ],
    None,
]


@dataclass(frozen=True)
class QkvHeadsConfig:
    """Heads of a layer; `kv_heads` 0 for a layer without keys and values of its own."""

    heads: int
    kv_heads: int
    head_dim: int
    grid: Grid
    k_eq_v: bool = False
    eps: float = 1e-6
    mean_over: int = 0
    """Values that the mean of squares counts, where a head is padded with zeros; 0 for all."""

    def __post_init__(self) -> None:
        if self.heads <= 0:
            raise ValueError(f"heads = {self.heads}: at least 1")
        if self.kv_heads < 0:
            raise ValueError(f"kv_heads = {self.kv_heads}: at least 0")
        # with one tile a half the vendor's simulator refuses how the packer is set up anew
        whole_tiles("head_dim", self.head_dim, 4 * TILE)
        epsilon(self.eps)
        nodes, items = self.grid[0] * self.grid[1], self.heads + 2 * self.kv_heads
        if nodes < items:
            raise ValueError(f"grid = {self.grid} has {nodes} nodes for {items} heads")
        fits("head_dim", self.head_dim, self.l1_bytes)

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        return self.half * (6 * 2048 + 11 * 4096) + 4 * 4096

    @property
    def half(self) -> int:
        """Tiles of half a head."""
        return self.head_dim // (2 * TILE)

    @property
    def v_first(self) -> int:
        """The head of qkv that v begins with."""
        return self.heads if self.k_eq_v else self.heads + self.kv_heads


def q_heads(config: QkvHeadsConfig) -> QKernel:
    """Operands: qkv, q_norm, cos, sin, q."""
    if config.kv_heads:
        raise ValueError(f"kv_heads = {config.kv_heads}: q_heads is for layers with 0")
    all_three = qkv_heads(config)

    def operation(
        qkv: ttnn.Tensor, q_norm: ttnn.Tensor, cos: ttnn.Tensor, sin: ttnn.Tensor, q: ttnn.Tensor
    ) -> None:
        all_three(qkv, q_norm, q_norm, cos, sin, q, q, q)  # without kv heads no node touches k, v

    return operation


def qkv_heads(config: QkvHeadsConfig) -> QkvKernel:
    """Operands: qkv, q_norm, k_norm, cos, sin, q, k, v."""
    half, heads, kv_heads, eps = config.half, config.heads, config.kv_heads, config.eps
    grid_x, nodes = config.grid[0], config.grid[0] * config.grid[1]
    turning, items, v_first = heads + kv_heads, heads + 2 * kv_heads, config.v_first
    share = 1.0 / (config.mean_over or config.head_dim)

    @ttl.operation(grid=config.grid)
    def operation(
        qkv: ttnn.Tensor,
        q_norm: ttnn.Tensor,
        k_norm: ttnn.Tensor,
        cos: ttnn.Tensor,
        sin: ttnn.Tensor,
        q: ttnn.Tensor,
        k: ttnn.Tensor,
        v: ttnn.Tensor,
    ) -> None:
        raw_low_dfb = ttl.make_dataflow_buffer_like(qkv, shape=(1, half), block_count=1)
        raw_high_dfb = ttl.make_dataflow_buffer_like(qkv, shape=(1, half), block_count=1)
        norm_low_dfb = ttl.make_dataflow_buffer_like(q_norm, shape=(1, half), block_count=1)
        norm_high_dfb = ttl.make_dataflow_buffer_like(q_norm, shape=(1, half), block_count=1)
        cos_dfb = ttl.make_dataflow_buffer_like(cos, shape=(1, half), block_count=1)
        sin_dfb = ttl.make_dataflow_buffer_like(sin, shape=(1, half), block_count=1)
        out_low_dfb = ttl.make_dataflow_buffer_like(q, shape=(1, half), block_count=1)
        out_high_dfb = ttl.make_dataflow_buffer_like(q, shape=(1, half), block_count=1)
        # float32, inside the core only
        share_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(half, 1), block_count=1)
        eps_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, 1), block_count=1)
        low_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        high_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        square_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        part_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, 1), block_count=1)
        mean_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, 1), block_count=1)
        inverse_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, 1), block_count=1)
        unit_low_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        unit_high_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        cos_f32_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        sin_f32_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        result_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)

        # Node i takes item i. (n - 1 - i + nodes) // nodes is 1 where i < n, else 0, so a range
        # from one such number to another is entered once by the nodes between the two.

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            is_q = (heads - 1 - node + nodes) // nodes
            turns = (turning - 1 - node + nodes) // nodes
            works = (items - 1 - node + nodes) // nodes
            for _ in range(turns):
                t = 2 * half * node
                with raw_low_dfb.reserve() as raw_low:
                    ttl.copy(qkv[0:1, t : t + half], raw_low).wait()
                with raw_high_dfb.reserve() as raw_high:
                    ttl.copy(qkv[0:1, t + half : t + 2 * half], raw_high).wait()
                with cos_dfb.reserve() as cos_blk:
                    ttl.copy(cos[0:1, 0:half], cos_blk).wait()
                with sin_dfb.reserve() as sin_blk:
                    ttl.copy(sin[0:1, 0:half], sin_blk).wait()
            for _ in range(is_q):
                with norm_low_dfb.reserve() as norm_low:
                    ttl.copy(q_norm[0:1, 0:half], norm_low).wait()
                with norm_high_dfb.reserve() as norm_high:
                    ttl.copy(q_norm[0:1, half : 2 * half], norm_high).wait()
            for _ in range(is_q, turns):
                with norm_low_dfb.reserve() as norm_low:
                    ttl.copy(k_norm[0:1, 0:half], norm_low).wait()
                with norm_high_dfb.reserve() as norm_high:
                    ttl.copy(k_norm[0:1, half : 2 * half], norm_high).wait()
            for _ in range(turns, works):
                t = 2 * half * (v_first + node - turning)
                with raw_low_dfb.reserve() as raw_low:
                    ttl.copy(qkv[0:1, t : t + half], raw_low).wait()
                with raw_high_dfb.reserve() as raw_high:
                    ttl.copy(qkv[0:1, t + half : t + 2 * half], raw_high).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            turns = (turning - 1 - node + nodes) // nodes
            works = (items - 1 - node + nodes) // nodes
            for _ in range(works):
                with share_dfb.reserve() as share_blk:
                    share_blk.store(ttl.math.fill(share_blk, share))
                with eps_dfb.reserve() as eps_blk:
                    eps_blk.store(ttl.math.fill(eps_blk, eps))
                with raw_low_dfb.wait() as raw_low, low_dfb.reserve() as low:
                    low.store(ttl.math.typecast(raw_low, ttnn.float32))
                with raw_high_dfb.wait() as raw_high, high_dfb.reserve() as high:
                    high.store(ttl.math.typecast(raw_high, ttnn.float32))
                with low_dfb.wait() as low, high_dfb.wait() as high:
                    with square_dfb.reserve() as square:
                        square.store(low * low)
                    with share_dfb.wait() as share_blk:
                        with square_dfb.wait() as square, part_dfb.reserve() as part:
                            part.store(square @ share_blk)
                        with square_dfb.reserve() as square:
                            square.store(high * high)
                        with square_dfb.wait() as square, part_dfb.wait() as part:
                            with mean_dfb.reserve() as mean:
                                mean.store(part + square @ share_blk)
                    with mean_dfb.wait() as mean, eps_dfb.wait() as eps_blk:
                        with inverse_dfb.reserve() as inverse:
                            inverse.store(ttl.math.rsqrt(mean + eps_blk))
                    with inverse_dfb.wait() as inverse:
                        for _ in range(turns):
                            with cos_dfb.wait() as cos_blk, cos_f32_dfb.reserve() as cos_f32:
                                cos_f32.store(ttl.math.typecast(cos_blk, ttnn.float32))
                            with sin_dfb.wait() as sin_blk, sin_f32_dfb.reserve() as sin_f32:
                                sin_f32.store(ttl.math.typecast(sin_blk, ttnn.float32))
                            with norm_low_dfb.wait() as norm, unit_low_dfb.reserve() as unit:
                                unit.store(low * ttl.math.broadcast(inverse, unit, dims=[1]) * norm)
                            with norm_high_dfb.wait() as norm, unit_high_dfb.reserve() as unit:
                                unit.store(
                                    high * ttl.math.broadcast(inverse, unit, dims=[1]) * norm
                                )
                            with (
                                unit_low_dfb.wait() as unit_low,
                                unit_high_dfb.wait() as unit_high,
                                cos_f32_dfb.wait() as cos_f32,
                                sin_f32_dfb.wait() as sin_f32,
                            ):
                                with result_dfb.reserve() as result:
                                    result.store(unit_low * cos_f32 - unit_high * sin_f32)
                                with result_dfb.wait() as result, out_low_dfb.reserve() as out:
                                    out.store(ttl.math.typecast(result, ttnn.bfloat16))
                                with result_dfb.reserve() as result:
                                    result.store(unit_high * cos_f32 + unit_low * sin_f32)
                                with result_dfb.wait() as result, out_high_dfb.reserve() as out:
                                    out.store(ttl.math.typecast(result, ttnn.bfloat16))
                        for _ in range(turns, works):
                            with result_dfb.reserve() as result:
                                result.store(low * ttl.math.broadcast(inverse, result, dims=[1]))
                            with result_dfb.wait() as result, out_low_dfb.reserve() as out:
                                out.store(ttl.math.typecast(result, ttnn.bfloat16))
                            with result_dfb.reserve() as result:
                                result.store(high * ttl.math.broadcast(inverse, result, dims=[1]))
                            with result_dfb.wait() as result, out_high_dfb.reserve() as out:
                                out.store(ttl.math.typecast(result, ttnn.bfloat16))

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            is_q = (heads - 1 - node + nodes) // nodes
            turns = (turning - 1 - node + nodes) // nodes
            works = (items - 1 - node + nodes) // nodes
            for _ in range(is_q):
                t = 2 * half * node
                with out_low_dfb.wait() as out:
                    ttl.copy(out, q[0:1, t : t + half]).wait()
                with out_high_dfb.wait() as out:
                    ttl.copy(out, q[0:1, t + half : t + 2 * half]).wait()
            for _ in range(is_q, turns):
                t = 2 * half * (node - heads)
                with out_low_dfb.wait() as out:
                    ttl.copy(out, k[0:1, t : t + half]).wait()
                with out_high_dfb.wait() as out:
                    ttl.copy(out, k[0:1, t + half : t + 2 * half]).wait()
            for _ in range(turns, works):
                t = 2 * half * (node - turning)
                with out_low_dfb.wait() as out:
                    ttl.copy(out, v[0:1, t : t + half]).wait()
                with out_high_dfb.wait() as out:
                    ttl.copy(out, v[0:1, t + half : t + 2 * half]).wait()

    return operation
