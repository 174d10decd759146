"""y = from_heads(units) @ w: attention's output back to rows of tokens and through o_proj, once.

units [U · 32, D], selection [heads · 32, U · 32] bf16 (`units.from_units`; what a unit is: there);
w [heads · D, N] bf16, bfp8 or bfp4, as the checkpoint has it, transposed;
identities [32, 32 S] bf16: S identity tiles;
rows [32, heads · D], parts [32 S, N] bf16: scratch in DRAM; y [32, N] bf16.
U = chunks · kv_heads; D and N multiples of 32; S: into how many shares K = heads · D falls.

**Phases.** 1. rows[head h] = Σ_u selection[h, u] @ units[u], as `heads.reshape_from_heads` does it:
grid columns share the heads, grid rows the tile columns of D, evenly, hence 8 × 8 nodes for 8 heads
of 256 or 512. The first node of a row multicasts its columns of units along the row, the first of
a column its heads' selections down. Sums go by blocks of up to 16 units: units and selections of 32
sequences do not fit beside the weights. A row has one 1, the rest is zeros: nothing is rounded.
2. A multicast of one tile, which waits until every node has asked for it, is a barrier: rows are
in DRAM. (0, 0) multicasts them, share by share; node i of C owns units of work [i T / C,
(i + 1) T / C) of T = S N / 32, each K / S × 32 of w, in the order share by share. With S = 1 the
products are y.
3. Else they go to `parts`, and after a barrier each node adds the S products of its columns of y,
as one matmul with a row of identities.
Weights stream from the start, up to `w_blocks` of them ahead: the `stream` thread knows no phases.

S is the least that gives 64 nodes work and fits L1, the same for any number of chunks: 2 in E2B,
where N is 48 tiles, 1 in E4B, where it is 80. Why sums go through DRAM, not pipes: `mlp` says it.
Cores: all; weights are read by 96 (E2B) and 80 (E4B) of 110. DRAM: units, selection, w once, rows
written and read once, y once; with S > 1 parts written and read once; some identities. (Of a row of
`selection`, only tiles of its own kv head can be other than zero: with 16 kv heads a sixteenth.)
L1: `l1_bytes`; 0.75 MB for E4B's full layers in bf16.
Rounded: y, and before it the products of several shares: 1.0 roundings, with two shares 1.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.heads import HeadsConfig
from kernels.limits import weight_format, whole_tiles
from kernels.runtime import N150_L1_BYTES, TILE, TILE_BYTES, Format, Grid, like, ttl, ttnn
from kernels.threads import to_all

AttentionOut = Callable[..., None]
_MOST_UNITS = 16
"""Units in L1 at once."""
_MOST_W_BLOCKS = 8


def _most_even(count: int, places: int) -> int:
    """How many each of at most so many places takes, all the same."""
    return next(n for n in range(1, count + 1) if count % n == 0 and count // n <= places)


@dataclass(frozen=True)
class AttentionOutConfig:
    """Heads of a layer, chunks that a step may have, and what o_proj makes of them."""

    heads: int
    kv_heads: int
    head_dim: int
    chunks: int
    n: int
    grid: Grid
    weights: Format = "bf16"

    def __post_init__(self) -> None:
        HeadsConfig(self.heads, self.kv_heads, self.head_dim, self.chunks, self.grid)
        whole_tiles("n", self.n)
        weight_format(self.weights)
        if self.heads // self.heads_each < 2 or self.width // self.columns_each < 2:
            # a multicast to one node has no flow control
            raise ValueError(
                f"grid = {self.grid}: {self.heads} heads of {self.head_dim} are shared by "
                f"{self.heads // self.heads_each} × {self.width // self.columns_each} nodes, "
                "at least 2 × 2"
            )
        if not self.shares:
            raise ValueError(
                f"head_dim = {self.head_dim}, n = {self.n}: no share of {self.heads} heads' K "
                f"fits the L1 with {self.weights} weights"
            )

    @property
    def units(self) -> int:
        """Of attention, 32 rows each."""
        return self.chunks * self.kv_heads

    @property
    def unit_block(self) -> int:
        """Of them in L1 at once."""
        return max(b for b in range(1, _MOST_UNITS + 1) if self.units % b == 0)

    @property
    def width(self) -> int:
        """Tiles of a head."""
        return self.head_dim // TILE

    @property
    def heads_each(self) -> int:
        """Heads that a node makes rows of."""
        return _most_even(self.heads, self.grid[0])

    @property
    def columns_each(self) -> int:
        """Tile columns of a head that a node makes."""
        return _most_even(self.width, self.grid[1])

    @property
    def shares(self) -> int:
        """S, into how many parts K falls; 0: none fits."""
        k_tiles, columns = self.heads * self.width, self.n // TILE
        fitting = [s for s in range(1, k_tiles + 1) if k_tiles % s == 0 and self._blocks(s)]
        enough = min(64, self.grid[0] * self.grid[1])
        return next((s for s in fitting if s * columns >= enough), max(fitting, default=0))

    @property
    def w_blocks(self) -> int:
        """Columns of a share of w in L1."""
        return self._blocks(self.shares)

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        share_k = self.heads * self.width // self.shares
        return self._other_bytes(self.shares) + self.w_blocks * share_k * TILE_BYTES[self.weights]

    @property
    def identities_shape(self) -> tuple[int, int]:
        """Of the operand, whose tiles are identities."""
        return TILE, TILE * self.shares

    @property
    def rows_shape(self) -> tuple[int, int]:
        """Of the scratch that has attention's output by tokens."""
        return TILE, self.heads * self.head_dim

    @property
    def parts_shape(self) -> tuple[int, int]:
        """Of the scratch that has the shares' products; touched only if there are several."""
        return TILE * self.shares, self.n

    def owned(self, shares: int) -> int:
        """Columns of a share of w that the busiest node multiplies."""
        return -(-shares * (self.n // TILE) // (self.grid[0] * self.grid[1]))

    def _other_bytes(self, shares: int) -> int:
        """L1 without w."""
        share_k = self.heads * self.width // shares
        made = (2 * _MOST_UNITS + self.heads_each + 3) * self.columns_each
        rows = (min(2, shares) + (self.weights != "bf16")) * share_k
        tiles = made + 2 * _MOST_UNITS + rows + self.owned(shares) + 3 * shares + 3
        return tiles * TILE_BYTES["bf16"]

    def _blocks(self, shares: int) -> int:
        """Columns of a share of w that fit the L1; 0 if fewer than the two that streaming needs."""
        left = N150_L1_BYTES - self._other_bytes(shares)
        share_k = self.heads * self.width // shares
        fit = left // (share_k * TILE_BYTES[self.weights])
        wanted = self.owned(shares)
        return min(fit, wanted, _MOST_W_BLOCKS) if fit >= min(2, wanted) else 0


def attention_out(config: AttentionOutConfig) -> AttentionOut:
    """Operands units, selection, w, identities, rows, parts, y."""
    num_units, unit_block = config.units, config.unit_block
    unit_blocks = num_units // unit_block
    width, heads_each, columns_each = config.width, config.heads_each, config.columns_each
    head_nodes, column_nodes = config.heads // heads_each, width // columns_each
    n_tiles, shares = config.n // TILE, config.shares
    share_k = config.heads * width // shares
    grid_x, grid_y = config.grid
    nodes = grid_x * grid_y
    work = shares * n_tiles
    sums = n_tiles if shares > 1 else 0

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(
        units: ttnn.Tensor,
        selection: ttnn.Tensor,
        w: ttnn.Tensor,
        identities: ttnn.Tensor,
        rows: ttnn.Tensor,
        parts: ttnn.Tensor,
        y: ttnn.Tensor,
    ) -> None:
        along_rows = ttl.PipeNet(
            [
                ttl.Pipe(src=(0, j), dst=(slice(0, head_nodes), slice(j, j + 1)))
                for j in range(column_nodes)
            ]
        )
        down_columns = ttl.PipeNet(
            [
                ttl.Pipe(src=(i, 0), dst=(slice(i, i + 1), slice(0, column_nodes)))
                for i in range(head_nodes)
            ]
        )
        rows_written, parts_written = to_all(config.grid), to_all(config.grid)
        rows_net = to_all(config.grid)
        products = parts if shares > 1 else y

        def block(rows: int, columns: int, count: int = 1) -> ttl.DataflowBuffer:
            return ttl.make_dataflow_buffer_like(
                like("bf16"), shape=(rows, columns), block_count=count
            )

        # 1: rows of tokens
        units_dfb = block(unit_block, columns_each, 2)
        pick_dfb = block(1, unit_block, 2)
        sum_dfb = block(1, columns_each, heads_each + 1)
        row_dfb = block(1, columns_each, 2)
        rows_written_dfb = block(1, 1)
        # 2: products
        share_dfb = block(1, share_k, min(2, shares))
        w_dfb = ttl.make_dataflow_buffer_like(w, shape=(share_k, 1), block_count=config.w_blocks)
        # all of a node's: they are written when the last share has been received
        product_dfb = block(1, 1, config.owned(shares))
        # 3: sums
        parts_written_dfb = block(1, shares)
        stack_dfb = block(shares, 1, 2)
        y_dfb = block(1, 1, 2)

        @ttl.datamovement()
        def exchange():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            if along_rows.is_active():
                d = node_y * columns_each
                for b in range(unit_blocks):
                    u = b * unit_block
                    with units_dfb.reserve() as units_blk:

                        def send_units(pipe: ttl.Pipe) -> None:
                            ttl.copy(
                                units[u : u + unit_block, d : d + columns_each], units_blk
                            ).wait()
                            ttl.copy(units_blk, pipe).wait()

                        def receive_units(pipe: ttl.Pipe) -> None:
                            ttl.copy(pipe, units_blk).wait()

                        along_rows.if_src(send_units)
                        along_rows.if_dst(receive_units)
                    for i in range(heads_each):
                        head = node_x * heads_each + i
                        with pick_dfb.reserve() as pick:

                            def send_pick(pipe: ttl.Pipe) -> None:
                                ttl.copy(
                                    selection[head : head + 1, u : u + unit_block], pick
                                ).wait()
                                ttl.copy(pick, pipe).wait()

                            def receive_pick(pipe: ttl.Pipe) -> None:
                                ttl.copy(pipe, pick).wait()

                            down_columns.if_src(send_pick)
                            down_columns.if_dst(receive_pick)
                for i in range(heads_each):
                    t = (node_x * heads_each + i) * width + d
                    with row_dfb.wait() as row:
                        ttl.copy(row, rows[0:1, t : t + columns_each]).wait()
            with rows_written_dfb.reserve() as token:

                def send_token(pipe: ttl.Pipe) -> None:
                    ttl.copy(identities[0:1, 0:1], token).wait()
                    ttl.copy(token, pipe).wait()

                def receive_token(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, token).wait()

                rows_written.if_src(send_token)
                rows_written.if_dst(receive_token)
            for share in range(shares):
                k = share * share_k
                with share_dfb.reserve() as share_blk:

                    def send_rows(pipe: ttl.Pipe) -> None:
                        ttl.copy(rows[0:1, k : k + share_k], share_blk).wait()
                        ttl.copy(share_blk, pipe).wait()

                    def receive_rows(pipe: ttl.Pipe) -> None:
                        ttl.copy(pipe, share_blk).wait()

                    rows_net.if_src(send_rows)
                    rows_net.if_dst(receive_rows)
            for t in range((node * work) // nodes, ((node + 1) * work) // nodes):
                with product_dfb.wait() as product:
                    r = t // n_tiles
                    n = t % n_tiles
                    ttl.copy(product, products[r : r + 1, n : n + 1]).wait()
            with parts_written_dfb.reserve() as identity:

                def send_identity(pipe: ttl.Pipe) -> None:
                    ttl.copy(identities[0:1, 0:shares], identity).wait()
                    ttl.copy(identity, pipe).wait()

                def receive_identity(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, identity).wait()

                parts_written.if_src(send_identity)
                parts_written.if_dst(receive_identity)
            for n in range((node * sums) // nodes, ((node + 1) * sums) // nodes):
                with stack_dfb.reserve() as stack:
                    ttl.copy(parts[0:shares, n : n + 1], stack).wait()
                with y_dfb.wait() as y_blk:
                    ttl.copy(y_blk, y[0:1, n : n + 1]).wait()

        if config.weights == "bf16":

            @ttl.compute()
            def compute():
                node_x, node_y = ttl.node(dims=2)
                node = node_y * grid_x + node_x
                first, last = (node * work) // nodes, ((node + 1) * work) // nodes
                if along_rows.is_active():
                    for _ in range(heads_each):
                        with sum_dfb.reserve() as nothing:
                            nothing.store(ttl.math.fill(nothing, 0.0))
                    for _ in range(unit_blocks - 1):
                        with units_dfb.wait() as units_blk:
                            for _ in range(heads_each):
                                with pick_dfb.wait() as pick, sum_dfb.wait() as before:
                                    with sum_dfb.reserve() as after:
                                        after.store(before + pick @ units_blk)
                    with units_dfb.wait() as units_blk:
                        for _ in range(heads_each):
                            with pick_dfb.wait() as pick, sum_dfb.wait() as before:
                                with row_dfb.reserve() as row:
                                    row.store(before + pick @ units_blk)
                with rows_written_dfb.wait() as _:
                    pass
                for share in range(shares):
                    with share_dfb.wait() as share_blk:
                        for t in range(first, last):
                            off = t // n_tiles - share
                            for _ in range(1 // (1 + off * off)):  # once if t is of this share
                                with w_dfb.wait() as w_blk, product_dfb.reserve() as product:
                                    product.store(share_blk @ w_blk)
                with parts_written_dfb.wait() as identity:
                    for _ in range((node * sums) // nodes, ((node + 1) * sums) // nodes):
                        with stack_dfb.wait() as stack, y_dfb.reserve() as y_blk:
                            y_blk.store(identity @ stack)

        else:
            cast_dfb = block(share_k, 1)

            @ttl.compute()
            def compute():
                node_x, node_y = ttl.node(dims=2)
                node = node_y * grid_x + node_x
                first, last = (node * work) // nodes, ((node + 1) * work) // nodes
                if along_rows.is_active():
                    for _ in range(heads_each):
                        with sum_dfb.reserve() as nothing:
                            nothing.store(ttl.math.fill(nothing, 0.0))
                    for _ in range(unit_blocks - 1):
                        with units_dfb.wait() as units_blk:
                            for _ in range(heads_each):
                                with pick_dfb.wait() as pick, sum_dfb.wait() as before:
                                    with sum_dfb.reserve() as after:
                                        after.store(before + pick @ units_blk)
                    with units_dfb.wait() as units_blk:
                        for _ in range(heads_each):
                            with pick_dfb.wait() as pick, sum_dfb.wait() as before:
                                with row_dfb.reserve() as row:
                                    row.store(before + pick @ units_blk)
                with rows_written_dfb.wait() as _:
                    pass
                for share in range(shares):
                    with share_dfb.wait() as share_blk:
                        for t in range(first, last):
                            off = t // n_tiles - share
                            for _ in range(1 // (1 + off * off)):  # once if t is of this share
                                with w_dfb.wait() as w_blk, cast_dfb.reserve() as cast:
                                    cast.store(ttl.math.typecast(w_blk, ttnn.bfloat16))
                                with cast_dfb.wait() as cast, product_dfb.reserve() as product:
                                    product.store(share_blk @ cast)
                with parts_written_dfb.wait() as identity:
                    for _ in range((node * sums) // nodes, ((node + 1) * sums) // nodes):
                        with stack_dfb.wait() as stack, y_dfb.reserve() as y_blk:
                            y_blk.store(identity @ stack)

        @ttl.datamovement()
        def stream():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for t in range((node * work) // nodes, ((node + 1) * work) // nodes):
                k = (t // n_tiles) * share_k
                n = t % n_tiles
                with w_dfb.reserve() as w_blk:
                    ttl.copy(w[k : k + share_k, n : n + 1], w_blk).wait()

    return operation
