"""y = x @ w for one tile row of activations: every projection of a decode step.

x [32, K] bf16, w [K, N] bf16 or bfp8, y [32, N] bf16; K and N multiples of 32, all tiled, in DRAM.

linear_hp   The whole K in dataflow buffers; one product a tile column, summed in float32 in Dst
            and rounded once. Node i of C owns tile columns [i N / C, (i + 1) N / C): any N spreads
            evenly. L1: K/32 tiles of x, two columns of w, with bfp8 a third one of w in bf16, two
            tiles of y; the config refuses a K that does not fit. DRAM: x once, w once, y once.
linear      K streamed in blocks of `k_block` tiles and summed in `accumulate`, for a larger K.
            Node i owns `n_block` tile columns in each of `passes` passes, so N/32 is a multiple of
            nodes · n_block. L1: two blocks of x, two of w, the sums, two of y.
            DRAM: x once a pass, w once, y once.

Cores: node (0, 0) reads x and multicasts it to all; every node streams its own columns of w and
writes its own columns of y. bfp8 cannot meet bf16 in one expression, so a stage of its own casts w.
The compiler allows no other store in a loop with `+=`; hence the bfp8 form of `linear` stores each
partial product and adds it in a third stage.
Limits: no split of K over nodes yet, so N = 1536 and less keep fewer than 64 cores at work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.runtime import L1_BYTES, TILE, TILE_BYTES, Format, Grid, like, ttl, ttnn

Kernel = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]


def _tiles(size: int, name: str) -> int:
    if size <= 0 or size % TILE:
        raise ValueError(f"{name} = {size} is no multiple of {TILE}")
    return size // TILE


@dataclass(frozen=True)
class LinearHpConfig:
    """Sizes of one `linear_hp`."""

    k: int
    n: int
    grid: Grid
    weights: Format = "bf16"

    def __post_init__(self) -> None:
        _tiles(self.n, "N")
        if self.l1_bytes > L1_BYTES:
            raise ValueError(f"K = {self.k} takes {self.l1_bytes} bytes of L1: use linear")

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        column = 2 * TILE_BYTES[self.weights] + (2048 if self.weights == "bfp8" else 0)
        return _tiles(self.k, "K") * (2048 + column) + 2 * 2048


@dataclass(frozen=True)
class LinearConfig:
    """Sizes and blocks of one `linear`; blocks in tiles."""

    k: int
    n: int
    grid: Grid
    k_block: int
    n_block: int = 1
    weights: Format = "bf16"
    accumulate: Format = "f32"

    def __post_init__(self) -> None:
        if _tiles(self.k, "K") % self.k_block:
            raise ValueError(f"K = {self.k} is no multiple of {self.k_block} tiles")
        if self.k == self.k_block * TILE:
            raise ValueError(f"K = {self.k} is one block: use linear_hp")
        if _tiles(self.n, "N") % (self.nodes * self.n_block):
            raise ValueError(f"N = {self.n} is no multiple of {self.nodes} × {self.n_block} tiles")

    @property
    def nodes(self) -> int:
        """Cores at work."""
        return self.grid[0] * self.grid[1]

    @property
    def passes(self) -> int:
        """How often x is streamed."""
        return self.n // TILE // (self.nodes * self.n_block)


def linear_hp(config: LinearHpConfig) -> Kernel:
    """The whole K at once, float32 sums."""
    return _linear_hp_bfp8(config) if config.weights == "bfp8" else _linear_hp_bf16(config)


def _linear_hp_bf16(config: LinearHpConfig) -> Kernel:
    k_tiles, n_tiles = config.k // TILE, config.n // TILE
    grid_x, grid_y = config.grid
    nodes = grid_x * grid_y

    @ttl.operation(grid=config.grid)
    def operation(x: ttnn.Tensor, w: ttnn.Tensor, y: ttnn.Tensor) -> None:
        to_all = ttl.PipeNet([ttl.Pipe(src=(0, 0), dst=(slice(0, grid_x), slice(0, grid_y)))])
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_tiles), block_count=1)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(k_tiles, 1), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with x_dfb.reserve() as x_blk:

                def send(pipe: ttl.Pipe) -> None:
                    ttl.copy(x[0:1, 0:k_tiles], x_blk).wait()
                    ttl.copy(x_blk, pipe).wait()

                def receive(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, x_blk).wait()

                to_all.if_src(send)
                to_all.if_dst(receive)
            for n in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
                with w_dfb.reserve() as w_blk:
                    ttl.copy(w[0:k_tiles, n : n + 1], w_blk).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with x_dfb.wait() as x_blk:
                for _ in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
                    with w_dfb.wait() as w_blk, y_dfb.reserve() as y_blk:
                        y_blk.store(x_blk @ w_blk)

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for n in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
                with y_dfb.wait() as y_blk:
                    ttl.copy(y_blk, y[0:1, n : n + 1]).wait()

    return operation


def _linear_hp_bfp8(config: LinearHpConfig) -> Kernel:
    k_tiles, n_tiles = config.k // TILE, config.n // TILE
    grid_x, grid_y = config.grid
    nodes = grid_x * grid_y

    @ttl.operation(grid=config.grid)
    def operation(x: ttnn.Tensor, w: ttnn.Tensor, y: ttnn.Tensor) -> None:
        to_all = ttl.PipeNet([ttl.Pipe(src=(0, 0), dst=(slice(0, grid_x), slice(0, grid_y)))])
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_tiles), block_count=1)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(k_tiles, 1), block_count=2)
        cast_dfb = ttl.make_dataflow_buffer_like(like("bf16"), shape=(k_tiles, 1), block_count=1)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with x_dfb.reserve() as x_blk:

                def send(pipe: ttl.Pipe) -> None:
                    ttl.copy(x[0:1, 0:k_tiles], x_blk).wait()
                    ttl.copy(x_blk, pipe).wait()

                def receive(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, x_blk).wait()

                to_all.if_src(send)
                to_all.if_dst(receive)
            for n in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
                with w_dfb.reserve() as w_blk:
                    ttl.copy(w[0:k_tiles, n : n + 1], w_blk).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with x_dfb.wait() as x_blk:
                for _ in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
                    with w_dfb.wait() as w_blk, cast_dfb.reserve() as cast:
                        cast.store(ttl.math.typecast(w_blk, ttnn.bfloat16))
                    with cast_dfb.wait() as cast, y_dfb.reserve() as y_blk:
                        y_blk.store(x_blk @ cast)

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for n in range((node * n_tiles) // nodes, ((node + 1) * n_tiles) // nodes):
                with y_dfb.wait() as y_blk:
                    ttl.copy(y_blk, y[0:1, n : n + 1]).wait()

    return operation


def linear(config: LinearConfig) -> Kernel:
    """K streamed in blocks."""
    return _linear_bfp8(config) if config.weights == "bfp8" else _linear_bf16(config)


def _linear_bf16(config: LinearConfig) -> Kernel:
    k_block, n_block, passes, nodes = config.k_block, config.n_block, config.passes, config.nodes
    k_blocks = config.k // TILE // k_block
    grid_x, grid_y = config.grid

    @ttl.operation(grid=config.grid)
    def operation(x: ttnn.Tensor, w: ttnn.Tensor, y: ttnn.Tensor) -> None:
        to_all = ttl.PipeNet([ttl.Pipe(src=(0, 0), dst=(slice(0, grid_x), slice(0, grid_y)))])
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_block), block_count=2)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(k_block, n_block), block_count=2)
        sum_dfb = ttl.make_dataflow_buffer_like(
            like(config.accumulate), shape=(1, n_block), block_count=2
        )
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, n_block), block_count=2)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for p in range(passes):
                n = (p * nodes + node) * n_block
                for kb in range(k_blocks):
                    k = kb * k_block
                    with x_dfb.reserve() as x_blk:

                        def send(pipe: ttl.Pipe) -> None:
                            ttl.copy(x[0:1, k : k + k_block], x_blk).wait()
                            ttl.copy(x_blk, pipe).wait()

                        def receive(pipe: ttl.Pipe) -> None:
                            ttl.copy(pipe, x_blk).wait()

                        to_all.if_src(send)
                        to_all.if_dst(receive)
                    with w_dfb.reserve() as w_blk:
                        ttl.copy(w[k : k + k_block, n : n + n_block], w_blk).wait()

        @ttl.compute()
        def compute():
            for _ in range(passes):
                with sum_dfb.reserve() as total:
                    for _ in range(k_blocks):
                        with x_dfb.wait() as x_blk, w_dfb.wait() as w_blk:
                            total += x_blk @ w_blk
                with sum_dfb.wait() as total, y_dfb.reserve() as y_blk:
                    y_blk.store(ttl.math.typecast(total, ttnn.bfloat16))

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for p in range(passes):
                n = (p * nodes + node) * n_block
                with y_dfb.wait() as y_blk:
                    ttl.copy(y_blk, y[0:1, n : n + n_block]).wait()

    return operation


def _linear_bfp8(config: LinearConfig) -> Kernel:
    k_block, n_block, passes, nodes = config.k_block, config.n_block, config.passes, config.nodes
    k_blocks = config.k // TILE // k_block
    grid_x, grid_y = config.grid

    @ttl.operation(grid=config.grid)
    def operation(x: ttnn.Tensor, w: ttnn.Tensor, y: ttnn.Tensor) -> None:
        to_all = ttl.PipeNet([ttl.Pipe(src=(0, 0), dst=(slice(0, grid_x), slice(0, grid_y)))])
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_block), block_count=2)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(k_block, n_block), block_count=2)
        cast_dfb = ttl.make_dataflow_buffer_like(
            like("bf16"), shape=(k_block, n_block), block_count=1
        )
        part_dfb = ttl.make_dataflow_buffer_like(
            like(config.accumulate), shape=(1, n_block), block_count=1
        )
        sum_dfb = ttl.make_dataflow_buffer_like(
            like(config.accumulate), shape=(1, n_block), block_count=2
        )
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, n_block), block_count=2)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for p in range(passes):
                n = (p * nodes + node) * n_block
                for kb in range(k_blocks):
                    k = kb * k_block
                    with x_dfb.reserve() as x_blk:

                        def send(pipe: ttl.Pipe) -> None:
                            ttl.copy(x[0:1, k : k + k_block], x_blk).wait()
                            ttl.copy(x_blk, pipe).wait()

                        def receive(pipe: ttl.Pipe) -> None:
                            ttl.copy(pipe, x_blk).wait()

                        to_all.if_src(send)
                        to_all.if_dst(receive)
                    with w_dfb.reserve() as w_blk:
                        ttl.copy(w[k : k + k_block, n : n + n_block], w_blk).wait()

        @ttl.compute()
        def compute():
            for _ in range(passes):
                with w_dfb.wait() as w_blk, cast_dfb.reserve() as cast:
                    cast.store(ttl.math.typecast(w_blk, ttnn.bfloat16))
                with x_dfb.wait() as x_blk, cast_dfb.wait() as cast, sum_dfb.reserve() as total:
                    total.store(x_blk @ cast)
                for _ in range(k_blocks - 1):
                    with w_dfb.wait() as w_blk, cast_dfb.reserve() as cast:
                        cast.store(ttl.math.typecast(w_blk, ttnn.bfloat16))
                    with x_dfb.wait() as x_blk, cast_dfb.wait() as cast, part_dfb.reserve() as part:
                        part.store(x_blk @ cast)
                    with sum_dfb.wait() as before, part_dfb.wait() as part:
                        with sum_dfb.reserve() as total:
                            total.store(before + part)
                with sum_dfb.wait() as total, y_dfb.reserve() as y_blk:
                    y_blk.store(ttl.math.typecast(total, ttnn.bfloat16))

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for p in range(passes):
                n = (p * nodes + node) * n_block
                with y_dfb.wait() as y_blk:
                    ttl.copy(y_blk, y[0:1, n : n + n_block]).wait()

    return operation
