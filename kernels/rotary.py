"""y = x · cos + rotate_half(x) · sin, head by head over the whole head.

x, y [32, heads · D] bf16; cos, sin [32, D / 2] bf16, one row a token, so position is data. D / 64
is a whole number. With l and h a head's halves, pair (d, d + D / 2):

    y_l = l · cos − h · sin        y_h = h · cos + l · sin

Sliding layers: D 256, all 128 pairs turn. Full layers: D 512, pairs 0–63 turn; the rest of the
table holds cos 1 and sin 0, which leaves a value as it is, exactly.

Cores: node i of C owns heads [i heads / C, (i + 1) heads / C); no node talks to another. A node
reads the table once and holds it for all of its heads; a node without a head reads nothing.
DRAM: x once, y once, cos and sin once a node that has a head.
L1: D / 64 tiles ten times (cos, sin, two each of l, h, y_l, y_h): 160 KB at D 512.
Dst holds float32, so y rounds once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import fits, whole_tiles
from kernels.runtime import TILE, Grid, ttl, ttnn

Kernel = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]


@dataclass(frozen=True)
class RotaryConfig:
    """Heads of a row, their size, and the cores that share them."""

    heads: int
    head_dim: int
    grid: Grid

    def __post_init__(self) -> None:
        if self.heads <= 0:
            raise ValueError(f"heads = {self.heads}: at least 1")
        whole_tiles("head_dim", self.head_dim, 2 * TILE)
        fits("head_dim", self.head_dim, self.l1_bytes)

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        return 10 * self.head_dim // (2 * TILE) * 2048


def rotary(config: RotaryConfig) -> Kernel:
    """Operands: x, cos, sin, y."""
    half, heads = config.head_dim // (2 * TILE), config.heads
    grid_x, nodes = config.grid[0], config.grid[0] * config.grid[1]

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(x: ttnn.Tensor, cos: ttnn.Tensor, sin: ttnn.Tensor, y: ttnn.Tensor) -> None:
        cos_dfb = ttl.make_dataflow_buffer_like(cos, shape=(1, half), block_count=1)
        sin_dfb = ttl.make_dataflow_buffer_like(sin, shape=(1, half), block_count=1)
        low_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, half), block_count=2)
        high_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, half), block_count=2)
        y_low_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, half), block_count=2)
        y_high_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, half), block_count=2)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            first, end = (node * heads) // nodes, ((node + 1) * heads) // nodes
            for _ in range((end - first + heads - 1) // heads):  # once, if it has a head
                with cos_dfb.reserve() as cos_blk:
                    ttl.copy(cos[0:1, 0:half], cos_blk).wait()
                with sin_dfb.reserve() as sin_blk:
                    ttl.copy(sin[0:1, 0:half], sin_blk).wait()
                for head in range(first, end):
                    t = 2 * half * head
                    with low_dfb.reserve() as low:
                        ttl.copy(x[0:1, t : t + half], low).wait()
                    with high_dfb.reserve() as high:
                        ttl.copy(x[0:1, t + half : t + 2 * half], high).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            first, end = (node * heads) // nodes, ((node + 1) * heads) // nodes
            for _ in range((end - first + heads - 1) // heads):
                with cos_dfb.wait() as cos_blk, sin_dfb.wait() as sin_blk:
                    for _ in range(first, end):
                        with low_dfb.wait() as low, high_dfb.wait() as high:
                            with y_low_dfb.reserve() as y_low:
                                y_low.store(low * cos_blk - high * sin_blk)
                            with y_high_dfb.reserve() as y_high:
                                y_high.store(high * cos_blk + low * sin_blk)

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for head in range((node * heads) // nodes, ((node + 1) * heads) // nodes):
                t = 2 * half * head
                with y_low_dfb.wait() as y_low:
                    ttl.copy(y_low, y[0:1, t : t + half]).wait()
                with y_high_dfb.wait() as y_high:
                    ttl.copy(y_high, y[0:1, t + half : t + 2 * half]).wait()

    return operation
