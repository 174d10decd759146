"""y = gelu_tanh(gate) · up, elementwise: the middle of the MLP and of the per-layer gate.

gelu_tanh(g) = g · sigmoid(1.5957691216 (g + 0.044715 g³)) = g / (1 + exp(g (s + c g²)))
with s = -1.5957691216 and c = 0.044715 s.

gate, up, y [32, F] bf16, F a multiple of 32, tiled, in DRAM;
constants [32, 160] bf16: five tiles, each filled with one value of `GELU_TILES`.
The constants are tiles because two fills in one expression compile wrongly; s and c are two bf16
numbers each, because one has 8 bits and exp turns an error of its argument into one of its value.
The whole formula is one expression, in float32 in Dst, rounded once when it is stored. The
compiler's own gelu is a table and is off by 2.4e-2. Where exp overflows, 1 / inf = 0 is right.
Cores: node i of C owns tile columns [i F / C, (i + 1) F / C); no node talks to another.
DRAM: gate, up once, y once; the constants once a node.
L1: two tiles each of gate, up, y, five constants: 22 KB.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import whole_tiles
from kernels.runtime import TILE, Grid, ttl, ttnn
from kernels.threads import write_row

Ternary = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]

_SLOPE, _CUBIC = -2 * math.sqrt(2 / math.pi), -2 * math.sqrt(2 / math.pi) * 0.044715
_SLOPE_HIGH, _CUBIC_HIGH = -1.59375, -0.0712890625  # as bf16 holds them
GELU_TILES = (1.0, _SLOPE_HIGH, _SLOPE - _SLOPE_HIGH, _CUBIC_HIGH, _CUBIC - _CUBIC_HIGH)
"""What the tiles of `constants` are filled with, in their order."""


@dataclass(frozen=True)
class GeluMulConfig:
    """Width of the row, and the cores that share it."""

    f: int
    grid: Grid

    def __post_init__(self) -> None:
        whole_tiles("f", self.f)


def gelu_mul(config: GeluMulConfig) -> Ternary:
    """Y = gelu_tanh(gate) · up; operands gate, up, constants, y."""
    f_tiles, grid_x, nodes = config.f // TILE, config.grid[0], config.grid[0] * config.grid[1]

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(
        gate: ttnn.Tensor, up: ttnn.Tensor, constants: ttnn.Tensor, y: ttnn.Tensor
    ) -> None:
        gate_dfb = ttl.make_dataflow_buffer_like(gate, shape=(1, 1), block_count=2)
        up_dfb = ttl.make_dataflow_buffer_like(up, shape=(1, 1), block_count=2)
        one_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        s_high_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        s_low_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        c_high_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        c_low_dfb = ttl.make_dataflow_buffer_like(constants, shape=(1, 1), block_count=1)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with one_dfb.reserve() as one:
                ttl.copy(constants[0:1, 0:1], one).wait()
            with s_high_dfb.reserve() as s_high:
                ttl.copy(constants[0:1, 1:2], s_high).wait()
            with s_low_dfb.reserve() as s_low:
                ttl.copy(constants[0:1, 2:3], s_low).wait()
            with c_high_dfb.reserve() as c_high:
                ttl.copy(constants[0:1, 3:4], c_high).wait()
            with c_low_dfb.reserve() as c_low:
                ttl.copy(constants[0:1, 4:5], c_low).wait()
            for t in range((node * f_tiles) // nodes, ((node + 1) * f_tiles) // nodes):
                with gate_dfb.reserve() as g:
                    ttl.copy(gate[0:1, t : t + 1], g).wait()
                with up_dfb.reserve() as u:
                    ttl.copy(up[0:1, t : t + 1], u).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with (
                one_dfb.wait() as one,
                s_high_dfb.wait() as s_high,
                s_low_dfb.wait() as s_low,
                c_high_dfb.wait() as c_high,
                c_low_dfb.wait() as c_low,
            ):
                for _ in range((node * f_tiles) // nodes, ((node + 1) * f_tiles) // nodes):
                    with gate_dfb.wait() as g, up_dfb.wait() as u, y_dfb.reserve() as y_blk:
                        slope = (s_high + s_low) + g * g * (c_high + c_low)
                        y_blk.store(g * u * ttl.math.recip(one + ttl.math.exp(g * slope)))

        write_row(config.grid, f_tiles, y, y_dfb)

    return operation
