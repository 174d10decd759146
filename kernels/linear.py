"""y = x @ w for one tile row of activations: every projection of a decode step.

x [32, K] bf16, w [K, N] bf16, bfp8 or bfp4, y [32, N] bf16; K and N multiples of 32; all tiled, in
DRAM.

linear_hp   (x, w, y). The whole K in dataflow buffers; one product a tile column, summed in float32
            in Dst and rounded once. Node i of C owns tile columns [i N / C, (i + 1) N / C): any N
            spreads evenly. L1: K/32 tiles of x, two columns of w, with block floats a third one of
            w in bf16, two tiles of y.
linear      (x, w, parts, y), with parts [32 k_split, N] bf16, scratch in DRAM. K is streamed in
            blocks of `k_block` tiles and shared by the `k_split` nodes of a group: for a K that L1
            does not hold, and for an N of too few columns for 64 nodes. A group owns at most one
            block of `n_block` tile columns. L1: two blocks of x, two of w, with block floats a
            third one of w in bf16, ten blocks of results and a tile.

Cores: the grid's rows are cut into `k_split` bands (one in `linear_hp`). Band r has the r-th share
of K: its first node reads that share of x and multicasts it to the band. A group is the nodes at
one place of every band. Every node streams its own block of w. Shares 1, 2, … write their sums to
`parts`; node (0, 0) then multicasts a tile to all, and since that waits for every receiver, all
parts are in DRAM when it returns: share 0 adds them to its own sum and writes y.
DRAM: x once, w once, y once; parts (k_split - 1) / k_split of it written and read once.

Sums: a matmul can only be stored in bf16, and a float32 buffer beside bf16 ones is a race: TT-Lang
configures the packer anew in every stage, at once, while the stage before may still be packing.
So a sum is carried as two bf16 blocks, its leading bits and the rest, 16 bits together. With
float32 in Dst, each expression of a stage rounds once: lead' = lead + rest + part and
rest' = (lead - lead') + rest + part. A block float cannot meet bf16 in one expression, hence a
stage that casts w.
Why not pipes from share to share: every pipe of a net is some 500 bytes of code in every node, and
100 do not fit; a second send to one node can be lost; several senders to one node race.
Error seen on the chip's simulator: 1.0 bf16 roundings (`linear_hp`), 1.7 (`linear`: the products'
roundings and the result's). A node's k_block should be large: every block costs three more stages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.limits import fits, weight_format, whole_tiles
from kernels.linear_compute import (
    Shares,
    add_blocks,
    add_blocks_cast,
    multiply_whole,
    multiply_whole_cast,
)
from kernels.runtime import TILE, TILE_BYTES, Format, Grid, ttl, ttnn
from kernels.threads import to_all, write_row

Kernel = Callable[..., None]


def _weight_bytes(weights: Format) -> int:
    """L1 for a tile of w: two in DRAM's format, and one in bf16 where that is another."""
    return 2 * TILE_BYTES[weights] + (TILE_BYTES["bf16"] if weights != "bf16" else 0)


@dataclass(frozen=True)
class LinearHpConfig:
    """Sizes of one `linear_hp`."""

    k: int
    n: int
    grid: Grid
    weights: Format = "bf16"

    def __post_init__(self) -> None:
        whole_tiles("n", self.n)
        weight_format(self.weights)
        fits("k", self.k, self.l1_bytes, "use linear")

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        tile = TILE_BYTES["bf16"]
        return whole_tiles("k", self.k) * (tile + _weight_bytes(self.weights)) + 2 * tile


@dataclass(frozen=True)
class LinearConfig:
    """Sizes and blocks of one `linear`; blocks in tiles."""

    k: int
    n: int
    grid: Grid
    k_block: int
    n_block: int
    k_split: int
    weights: Format = "bf16"

    def __post_init__(self) -> None:
        if self.k_block < 1 or self.n_block < 1:
            raise ValueError(f"k_block = {self.k_block}, n_block = {self.n_block}: at least 1 each")
        if self.k_split < 2:
            raise ValueError(f"k_split = {self.k_split}: at least 2, for 1 there is linear_hp")
        if self.grid[1] % self.k_split:
            raise ValueError(f"k_split = {self.k_split} does not divide {self.grid[1]} rows")
        if whole_tiles("k", self.k) % (self.k_block * self.k_split):
            raise ValueError(
                f"k = {self.k} is no multiple of {self.k_split} shares of {self.k_block} tiles"
            )
        if whole_tiles("n", self.n) % self.n_block:
            raise ValueError(f"n = {self.n} is no multiple of {self.n_block} tiles")
        if self.n_blocks > self.groups:
            raise ValueError(
                f"n = {self.n} has {self.n_blocks} blocks of {self.n_block} tiles for "
                f"{self.groups} groups of nodes: raise n_block"
            )
        weight_format(self.weights)
        fits("k_block", self.k_block, self.l1_bytes, "lower it")

    @property
    def groups(self) -> int:
        """Nodes of a band, and so groups of nodes that share K."""
        return self.grid[0] * self.grid[1] // self.k_split

    @property
    def n_blocks(self) -> int:
        """Blocks of columns, at most one for each group."""
        return self.n // TILE // self.n_block

    @property
    def k_blocks(self) -> int:
        """Blocks of K that each node of a group streams."""
        return self.k // TILE // self.k_block // self.k_split

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        tile = TILE_BYTES["bf16"]
        per_k = 2 * tile + self.n_block * _weight_bytes(self.weights)
        return self.k_block * per_k + (10 * self.n_block + 1) * tile


def linear_hp(config: LinearHpConfig) -> Kernel:
    """The whole K at once, float32 sums."""
    k_tiles, n_tiles = config.k // TILE, config.n // TILE
    shares = Shares(config.grid, 1, k_tiles, 1, 1, n_tiles)

    @ttl.operation(grid=config.grid)
    def operation(x: ttnn.Tensor, w: ttnn.Tensor, y: ttnn.Tensor) -> None:
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_tiles), block_count=1)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(k_tiles, 1), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, 1), block_count=2)
        _read(shares, shares.pipes_of_x(), x, w, x_dfb, w_dfb)
        multiply = multiply_whole if config.weights == "bf16" else multiply_whole_cast
        multiply(shares, x_dfb, w_dfb, y_dfb)
        write_row(config.grid, n_tiles, y, y_dfb)

    return operation


def linear(config: LinearConfig) -> Kernel:
    """K streamed in blocks, by the `k_split` nodes of a group."""
    k_block, n_block = config.k_block, config.n_block
    shares = Shares(config.grid, config.k_split, k_block, config.k_blocks, n_block, config.n_blocks)

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(x: ttnn.Tensor, w: ttnn.Tensor, parts: ttnn.Tensor, y: ttnn.Tensor) -> None:
        x_dfb = ttl.make_dataflow_buffer_like(x, shape=(1, k_block), block_count=2)
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(k_block, n_block), block_count=2)
        mine_dfb = ttl.make_dataflow_buffer_like(parts, shape=(1, n_block), block_count=1)
        other_dfb = ttl.make_dataflow_buffer_like(parts, shape=(1, n_block), block_count=2)
        y_dfb = ttl.make_dataflow_buffer_like(y, shape=(1, n_block), block_count=1)
        x_net = shares.pipes_of_x()
        _read_and_add_up(shares, x_net, x, w, parts, x_dfb, w_dfb, mine_dfb, other_dfb)
        _write_sums(shares, y, y_dfb)
        add = add_blocks if config.weights == "bf16" else add_blocks_cast
        add(shares, x_dfb, w_dfb, mine_dfb, other_dfb, y_dfb)

    return operation


# --- Threads that move data; TT-Lang compiles a thread from its source, wherever it is defined ----


def _read(
    shares: Shares,
    x_net: ttl.PipeNet,
    x: ttnn.Tensor,
    w: ttnn.Tensor,
    x_dfb: ttl.DataflowBuffer,
    w_dfb: ttl.DataflowBuffer,
) -> None:
    """Each band's share of x to all of it, and every node its blocks of w."""
    k_block, k_blocks, n_block, n_blocks = (
        shares.k_block,
        shares.k_blocks,
        shares.n_block,
        shares.n_blocks,
    )
    grid_x, band = shares.grid[0], shares.band
    groups = grid_x * band

    @ttl.datamovement()
    def read():
        node_x, node_y = ttl.node(dims=2)
        group = (node_y % band) * grid_x + node_x
        for kb in range(k_blocks):
            k = ((node_y // band) * k_blocks + kb) * k_block
            with x_dfb.reserve() as x_blk:

                def send(pipe: ttl.Pipe) -> None:
                    ttl.copy(x[0:1, k : k + k_block], x_blk).wait()
                    ttl.copy(x_blk, pipe).wait()

                def receive(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, x_blk).wait()

                x_net.if_src(send)
                x_net.if_dst(receive)
            for nb in range((group * n_blocks) // groups, ((group + 1) * n_blocks) // groups):
                n = nb * n_block
                with w_dfb.reserve() as w_blk:
                    ttl.copy(w[k : k + k_block, n : n + n_block], w_blk).wait()

    del read


def _read_and_add_up(
    shares: Shares,
    x_net: ttl.PipeNet,
    x: ttnn.Tensor,
    w: ttnn.Tensor,
    parts: ttnn.Tensor,
    x_dfb: ttl.DataflowBuffer,
    w_dfb: ttl.DataflowBuffer,
    mine_dfb: ttl.DataflowBuffer,
    other_dfb: ttl.DataflowBuffer,
) -> None:
    """As `_read`; then sums of shares 1, 2, … to DRAM, and when all are there, to share 0.

    All multicasts are in the thread defined first: its network takes rectangles as they are.
    """
    k_block, k_blocks, k_split = shares.k_block, shares.k_blocks, shares.k_split
    n_block, n_blocks = shares.n_block, shares.n_blocks
    grid_x, band, groups = shares.grid[0], shares.band, shares.groups
    barrier = to_all(shares.grid)
    token_dfb = ttl.make_dataflow_buffer_like(parts, shape=(1, 1), block_count=1)

    @ttl.datamovement()
    def read():
        node_x, node_y = ttl.node(dims=2)
        group, share = (node_y % band) * grid_x + node_x, node_y // band
        first, end = (group * n_blocks) // groups, ((group + 1) * n_blocks) // groups
        for kb in range(k_blocks):
            k = (share * k_blocks + kb) * k_block
            with x_dfb.reserve() as x_blk:

                def send(pipe: ttl.Pipe) -> None:
                    ttl.copy(x[0:1, k : k + k_block], x_blk).wait()
                    ttl.copy(x_blk, pipe).wait()

                def receive(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, x_blk).wait()

                x_net.if_src(send)
                x_net.if_dst(receive)
            for nb in range(first, end):
                n = nb * n_block
                with w_dfb.reserve() as w_blk:
                    ttl.copy(w[k : k + k_block, n : n + n_block], w_blk).wait()
        for nb in range(first, end):
            n = nb * n_block
            for _ in range((share + k_split - 1) // k_split):  # once, but in share 0 never
                with mine_dfb.wait() as mine:
                    ttl.copy(mine, parts[share : share + 1, n : n + n_block]).wait()
        with token_dfb.reserve() as token:

            def send_token(pipe: ttl.Pipe) -> None:
                ttl.copy(parts[0:1, 0:1], token).wait()
                ttl.copy(token, pipe).wait()

            def receive_token(pipe: ttl.Pipe) -> None:
                ttl.copy(pipe, token).wait()

            barrier.if_src(send_token)
            barrier.if_dst(receive_token)
        for nb in range(first, end):
            n = nb * n_block
            for _ in range((k_split - 1 - share) // (k_split - 1)):  # in share 0 alone
                for s in range(1, k_split):
                    with other_dfb.reserve() as other:
                        ttl.copy(parts[s : s + 1, n : n + n_block], other).wait()

    del read


def _write_sums(shares: Shares, y: ttnn.Tensor, y_dfb: ttl.DataflowBuffer) -> None:
    """The nodes of share 0 their blocks of y."""
    n_block, n_blocks, k_split = shares.n_block, shares.n_blocks, shares.k_split
    grid_x, band, groups = shares.grid[0], shares.band, shares.groups

    @ttl.datamovement()
    def write():
        node_x, node_y = ttl.node(dims=2)
        group, share = (node_y % band) * grid_x + node_x, node_y // band
        for nb in range((group * n_blocks) // groups, ((group + 1) * n_blocks) // groups):
            n = nb * n_block
            for _ in range((k_split - 1 - share) // (k_split - 1)):  # in share 0 alone
                with y_dfb.wait() as y_blk:
                    ttl.copy(y_blk, y[0:1, n : n + n_block]).wait()

    del write
