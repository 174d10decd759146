"""The compute threads of `kernels.linear`, which says what they are for; one for each dataflow.

Each function here defines a thread inside the operation that calls it: TT-Lang registers threads as
they are defined and compiles them from their source. Names of buffers are the same in all threads
of an operation, for the functional simulator tells buffers apart by name.

`group` is the node's place in its band; a group owns blocks [group · n_blocks / groups,
(group + 1) · n_blocks / groups) of y's columns. TT-Lang has no `if` for work: ranges that are empty
in some nodes stand for it, as does every loop from `first` to `end` in `linear`, of one block at
most. A node without a block still takes its x from the buffer, or the multicast would wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.runtime import Grid, like, ttl, ttnn


@dataclass(frozen=True)
class Shares:
    """How the nodes share the work, for both kernels; sizes in tiles."""

    grid: Grid
    k_split: int
    k_block: int
    k_blocks: int
    n_block: int
    n_blocks: int

    @property
    def band(self) -> int:
        """Rows of the grid that have one share of K."""
        return self.grid[1] // self.k_split

    @property
    def groups(self) -> int:
        """Nodes of a band."""
        return self.grid[0] * self.band

    def pipes_of_x(self) -> ttl.PipeNet:
        """From the first node of each band to the band."""
        columns, rows = slice(0, self.grid[0]), self.band
        return ttl.PipeNet(
            [
                ttl.Pipe(src=(0, top), dst=(columns, slice(top, top + rows)))
                for top in range(0, self.grid[1], rows)
            ]
        )


def multiply_whole(
    shares: Shares,
    x_dfb: ttl.DataflowBuffer,
    w_dfb: ttl.DataflowBuffer,
    y_dfb: ttl.DataflowBuffer,
) -> None:
    """Multiplies the whole x with each of the node's columns."""
    grid_x, groups, n_blocks = shares.grid[0], shares.groups, shares.n_blocks

    @ttl.compute()
    def compute():
        node_x, node_y = ttl.node(dims=2)
        group = node_y * grid_x + node_x
        with x_dfb.wait() as x_blk:
            for _ in range((group * n_blocks) // groups, ((group + 1) * n_blocks) // groups):
                with w_dfb.wait() as w_blk, y_dfb.reserve() as y_blk:
                    y_blk.store(x_blk @ w_blk)

    del compute


def multiply_whole_cast(
    shares: Shares,
    x_dfb: ttl.DataflowBuffer,
    w_dfb: ttl.DataflowBuffer,
    y_dfb: ttl.DataflowBuffer,
) -> None:
    """The same with w cast to bf16."""
    grid_x, groups, n_blocks = shares.grid[0], shares.groups, shares.n_blocks
    w_shape = (shares.k_block, shares.n_block)
    cast_dfb = ttl.make_dataflow_buffer_like(like("bf16"), shape=w_shape, block_count=1)

    @ttl.compute()
    def compute():
        node_x, node_y = ttl.node(dims=2)
        group = node_y * grid_x + node_x
        with x_dfb.wait() as x_blk:
            for _ in range((group * n_blocks) // groups, ((group + 1) * n_blocks) // groups):
                with w_dfb.wait() as w_blk, cast_dfb.reserve() as cast:
                    cast.store(ttl.math.typecast(w_blk, ttnn.bfloat16))
                with cast_dfb.wait() as cast, y_dfb.reserve() as y_blk:
                    y_blk.store(x_blk @ cast)

    del compute


def add_blocks(
    shares: Shares,
    x_dfb: ttl.DataflowBuffer,
    w_dfb: ttl.DataflowBuffer,
    mine_dfb: ttl.DataflowBuffer,
    other_dfb: ttl.DataflowBuffer,
    y_dfb: ttl.DataflowBuffer,
) -> None:
    """Sums x @ w over the node's blocks of K and, in share 0, over the other shares."""
    grid_x, band, groups = shares.grid[0], shares.band, shares.groups
    k_blocks, n_blocks, k_split = shares.k_blocks, shares.n_blocks, shares.k_split
    part_dfb, lead_dfb, rest_dfb, next_dfb = _sums(shares.n_block)

    @ttl.compute()
    def compute():
        node_x, node_y = ttl.node(dims=2)
        group = (node_y % band) * grid_x + node_x
        share = node_y // band
        first = (group * n_blocks) // groups
        end = ((group + 1) * n_blocks) // groups
        for _ in range(first, end):
            with lead_dfb.reserve() as lead:
                lead.store(ttl.math.fill(lead, 0.0))
            with rest_dfb.reserve() as rest:
                rest.store(ttl.math.fill(rest, 0.0))
        for _ in range(k_blocks):
            with x_dfb.wait() as x_blk:
                for _ in range(first, end):
                    with w_dfb.wait() as w_blk, part_dfb.reserve() as part:
                        part.store(x_blk @ w_blk)
                    with part_dfb.wait() as part, lead_dfb.wait() as lead, rest_dfb.wait() as rest:
                        with next_dfb.reserve() as total:
                            total.store(lead + rest + part)
                        with next_dfb.wait() as total:
                            with rest_dfb.reserve() as error:
                                error.store(lead - total + rest + part)
                            with lead_dfb.reserve() as new:
                                new.store(total)
        for _ in range(first, end):
            for _ in range((share + k_split - 1) // k_split):  # once, but in share 0 never
                with lead_dfb.wait() as lead, rest_dfb.wait() as rest, mine_dfb.reserve() as mine:
                    mine.store(lead + rest)
            for _ in range((k_split - 1 - share) // (k_split - 1)):  # in share 0 alone
                for _ in range(k_split - 1):
                    with other_dfb.wait() as part, lead_dfb.wait() as lead, rest_dfb.wait() as rest:
                        with next_dfb.reserve() as total:
                            total.store(lead + rest + part)
                        with next_dfb.wait() as total:
                            with rest_dfb.reserve() as error:
                                error.store(lead - total + rest + part)
                            with lead_dfb.reserve() as new:
                                new.store(total)
                with lead_dfb.wait() as lead, rest_dfb.wait() as rest, y_dfb.reserve() as y_blk:
                    y_blk.store(lead + rest)

    del compute


def add_blocks_cast(
    shares: Shares,
    x_dfb: ttl.DataflowBuffer,
    w_dfb: ttl.DataflowBuffer,
    mine_dfb: ttl.DataflowBuffer,
    other_dfb: ttl.DataflowBuffer,
    y_dfb: ttl.DataflowBuffer,
) -> None:
    """The same with w cast to bf16."""
    grid_x, band, groups = shares.grid[0], shares.band, shares.groups
    k_blocks, n_blocks, k_split = shares.k_blocks, shares.n_blocks, shares.k_split
    w_shape = (shares.k_block, shares.n_block)
    cast_dfb = ttl.make_dataflow_buffer_like(like("bf16"), shape=w_shape, block_count=1)
    part_dfb, lead_dfb, rest_dfb, next_dfb = _sums(shares.n_block)

    @ttl.compute()
    def compute():
        node_x, node_y = ttl.node(dims=2)
        group = (node_y % band) * grid_x + node_x
        share = node_y // band
        first = (group * n_blocks) // groups
        end = ((group + 1) * n_blocks) // groups
        for _ in range(first, end):
            with lead_dfb.reserve() as lead:
                lead.store(ttl.math.fill(lead, 0.0))
            with rest_dfb.reserve() as rest:
                rest.store(ttl.math.fill(rest, 0.0))
        for _ in range(k_blocks):
            with x_dfb.wait() as x_blk:
                for _ in range(first, end):
                    with w_dfb.wait() as w_blk, cast_dfb.reserve() as cast:
                        cast.store(ttl.math.typecast(w_blk, ttnn.bfloat16))
                    with cast_dfb.wait() as cast, part_dfb.reserve() as part:
                        part.store(x_blk @ cast)
                    with part_dfb.wait() as part, lead_dfb.wait() as lead, rest_dfb.wait() as rest:
                        with next_dfb.reserve() as total:
                            total.store(lead + rest + part)
                        with next_dfb.wait() as total:
                            with rest_dfb.reserve() as error:
                                error.store(lead - total + rest + part)
                            with lead_dfb.reserve() as new:
                                new.store(total)
        for _ in range(first, end):
            for _ in range((share + k_split - 1) // k_split):  # once, but in share 0 never
                with lead_dfb.wait() as lead, rest_dfb.wait() as rest, mine_dfb.reserve() as mine:
                    mine.store(lead + rest)
            for _ in range((k_split - 1 - share) // (k_split - 1)):  # in share 0 alone
                for _ in range(k_split - 1):
                    with other_dfb.wait() as part, lead_dfb.wait() as lead, rest_dfb.wait() as rest:
                        with next_dfb.reserve() as total:
                            total.store(lead + rest + part)
                        with next_dfb.wait() as total:
                            with rest_dfb.reserve() as error:
                                error.store(lead - total + rest + part)
                            with lead_dfb.reserve() as new:
                                new.store(total)
                with lead_dfb.wait() as lead, rest_dfb.wait() as rest, y_dfb.reserve() as y_blk:
                    y_blk.store(lead + rest)

    del compute


def _sums(n_block: int) -> tuple[ttl.DataflowBuffer, ...]:
    """For a block of columns: a product, a sum's leading bits, its rest, its next leading bits."""
    return tuple(
        ttl.make_dataflow_buffer_like(like("bf16"), shape=(1, n_block), block_count=count)
        for count in (1, 2, 2, 1)
    )
