"""Data-movement threads and pipes that several kernels have alike.

TT-Lang compiles a thread from its source, wherever it is defined, so a plain function that defines
one can be called in an operation's body. A tensor and its buffer must have the same names in every
thread of that operation: the names of the parameters here. (A compute thread can call nothing: what
two of them share stands in both.)
"""

from __future__ import annotations

from kernels.runtime import Grid, ttl, ttnn


def to_all(grid: Grid) -> ttl.PipeNet:
    """From node (0, 0) to every node, itself too: a multicast, and, of any one tile, a barrier.

    The sender waits until every receiver has asked. A net feeds one buffer at one place.
    """
    return ttl.PipeNet([ttl.Pipe(src=(0, 0), dst=(slice(0, grid[0]), slice(0, grid[1])))])


def write_row(
    grid: Grid, blocks: int, y: ttnn.Tensor, y_dfb: ttl.DataflowBuffer, block: int = 1
) -> None:
    """Each node its share of a tile row: of C nodes, node i has blocks [i n / C, (i + 1) n / C).

    Args:
        grid: all nodes of the operation.
        blocks: n, of the row.
        y: one tile row.
        y_dfb: where the blocks come from, [1, block] each.
        block: tiles of a block.
    """
    grid_x, nodes = grid[0], grid[0] * grid[1]

    @ttl.datamovement()
    def write():
        node_x, node_y = ttl.node(dims=2)
        node = node_y * grid_x + node_x
        for b in range((node * blocks) // nodes, ((node + 1) * blocks) // nodes):
            t = b * block
            with y_dfb.wait() as y_blk:
                ttl.copy(y_blk, y[0:1, t : t + block]).wait()

    del write
