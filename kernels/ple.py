"""y = (h2 + RMS((gelu_tanh(h2 G) · pli) P) · w) · s with h2 = h + RMS(m) · w_ff: a layer's end.

The feed-forward's residual and the per-layer embedding's block in one launch.

m, h [32, H], pli [32, P] bf16 (this layer's slice of the per-layer inputs), G [H, P], P [P, H]
bf16; w_ff, w [32, H] bf16, a norm's weight repeated in every row; s [32, 32] bf16, a tile filled
with the layer's scalar; identities [32, 32 max(Rg, Rp)] bf16: that many identity tiles;
h2 [32, H], sums [32 Rg, P], act [32, P], parts [32 Rp, H] bf16: scratch in DRAM; y [32, H] bf16.
H and P multiples of 32; P is 256. h2 is rounded to bf16, as `residual_norm` would. y may be h: a
tile of h is read by its owner alone, and before that writes y's.

G has 8 tile columns and P, in E2B, 48: too few for 64 nodes. So K is shared: G's by the first Rg
rows of the grid, P's falls into Rp parts. Sums over nodes go through DRAM, as `mlp` explains: a
node writes its product, takes part in a multicast (a barrier), and an owner adds the Rg or Rp
products of a column as one matmul with a row of identities, in float32. The barriers' tiles are the
identities.

1. (0, 0) multicasts m; every node sums its squares and makes its own columns of h2,
   [i H / C, (i + 1) H / C), which go to DRAM and stay in L1 besides.
2. (0, 0) multicasts h2, share by share; node (x, r) multiplies share r with rows of that share and
   columns [8 x / X, 8 (x + 1) / X) of G, into `sums`; grid rows from Rg on only take part.
3. Eight nodes add a column of them, in the same expression as gelu_tanh and pli, and write `act`.
4. (0, 0) multicasts act; units of P, part by part, are spread over all nodes; products to `parts`.
5. (0, 0) multicasts parts; every node adds them and knows the whole row, so its sum of squares;
   it writes its own columns of y, rounded once.

The squares' sum and the factor, two bf16 tiles of 16 bits together, are `kernels.norm`'s idiom.
Cores: all, at least two; weights are read by 80 and 80 (E4B), 64 and 96 (E2B) of 110.
DRAM: G, P, pli, h, h2 once; m, parts twice; w_ff, w, y once; s once a node that has
a column.
L1: 4 H/32 + Rp H/32 tiles, the weights' blocks, and some 60 tiles: 1.07 MB for E4B. All 32 dataflow
buffers but one, so the constants of the two norms and of gelu take turns in the same five. The
program takes most of what a core has, too (multicasts to rows of the grid were too many).
Reaches 2.1 roundings, one of which is h2's; bound 3.
Weights in bf16 only: they are 1 % of a layer's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.gelu_mul import GELU_TILES
from kernels.limits import epsilon, fits, whole_tiles
from kernels.norm import two_bf16
from kernels.runtime import TILE, TILE_BYTES, Grid, like, ttl, ttnn
from kernels.threads import to_all

Ple = Callable[..., None]


DST_TILES = 4
"""Float32 tiles that a product may have at once; a wider one is cut into equal blocks."""


@dataclass(frozen=True)
class PleConfig:
    """Sizes of one per-layer embedding block."""

    h: int
    grid: Grid
    p: int = 256
    eps: float = 1e-6

    def __post_init__(self) -> None:
        whole_tiles("h", self.h)
        whole_tiles("p", self.p)
        epsilon(self.eps)
        if self.nodes < 2:
            raise ValueError(f"grid = {self.grid} has fewer than 2 nodes")
        tiles = self.h // TILE
        if tiles > DST_TILES and not any(tiles % n == 0 for n in range(2, DST_TILES + 1)):
            raise ValueError(f"h = {self.h}: the compiler cuts no row of {tiles} tiles into blocks")
        fits("h", self.h, self.l1_bytes)

    @property
    def nodes(self) -> int:
        """Cores."""
        return self.grid[0] * self.grid[1]

    @property
    def gate_shares(self) -> int:
        """Rg, the rows of the grid that share the gate's K."""
        return max(r for r in range(1, self.grid[1] + 1) if self.h // TILE % r == 0)

    @property
    def projection_shares(self) -> int:
        """Rp, in how many parts the projection's K falls: so many that 64 nodes have work."""
        k_tiles, columns = self.p // TILE, self.h // TILE
        enough = [
            r
            for r in range(1, k_tiles + 1)
            if k_tiles % r == 0 and r * columns >= min(64, self.nodes)
        ]
        return min(enough, default=k_tiles)

    @property
    def kept(self) -> int:
        """The most tiles of h2 that a node has."""
        return -(-(self.h // TILE) // self.nodes)

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        h_tiles, p_tiles = self.h // TILE, self.p // TILE
        row = (4 + self.projection_shares) * h_tiles
        gate = (2 + 2) * h_tiles // self.gate_shares
        projection = (2 + 2) * p_tiles // self.projection_shares
        units = -(-self.projection_shares * h_tiles // self.nodes)
        shares = 3 * self.gate_shares + 3 * self.projection_shares
        products = max(units, -(-p_tiles // self.grid[0]))
        return (row + gate + projection + products + shares + self.kept + 21) * TILE_BYTES["bf16"]


def ple(config: PleConfig) -> Ple:
    """Operands m, w_ff, h, pli, gate, projection, w, s, identities, h2, sums, act, parts, y."""
    h_tiles, p_tiles = config.h // TILE, config.p // TILE
    grid_x, nodes = config.grid[0], config.nodes
    gate_shares, parts_count = config.gate_shares, config.projection_shares
    gate_k, part_k = h_tiles // gate_shares, p_tiles // parts_count
    units, kept = parts_count * h_tiles, config.kept
    most_units, most_columns = -(-units // nodes), -(-p_tiles // grid_x)
    one_value, s_high_value, s_low_value, c_high_value, c_low_value = GELU_TILES
    count_value, count_low_value = two_bf16(1 / config.h)
    eps_value, eps_low_value = two_bf16(config.eps)

    @ttl.operation(grid=config.grid, fp32_dest_acc_en=True)
    def operation(
        m: ttnn.Tensor,
        w_ff: ttnn.Tensor,
        h: ttnn.Tensor,
        pli: ttnn.Tensor,
        gate: ttnn.Tensor,
        projection: ttnn.Tensor,
        w: ttnn.Tensor,
        s: ttnn.Tensor,
        identities: ttnn.Tensor,
        h2: ttnn.Tensor,
        sums: ttnn.Tensor,
        act: ttnn.Tensor,
        parts: ttnn.Tensor,
        y: ttnn.Tensor,
    ) -> None:
        m_net = to_all(config.grid)
        h2_written = to_all(config.grid)
        share_net = to_all(config.grid)
        sums_written = to_all(config.grid)
        act_written = to_all(config.grid)
        parts_written = to_all(config.grid)
        act_net = to_all(config.grid)
        parts_net = to_all(config.grid)

        def block(rows: int, columns: int, count: int = 1) -> ttl.DataflowBuffer:
            return ttl.make_dataflow_buffer_like(
                like("bf16"), shape=(rows, columns), block_count=count
            )

        # constants: 1 / H and eps of a norm, high and low; gelu's five; the norm's again
        first_dfb, second_dfb, third_dfb = block(1, 1), block(1, 1), block(1, 1)
        fourth_dfb, fifth_dfb = block(1, 1), block(1, 1)
        # 1: h2
        m_dfb = block(1, h_tiles)
        kept_dfb = block(1, 1, kept)
        h2_written_dfb = block(1, 1)
        # 2: the gate's products
        share_dfb = block(1, gate_k, 2)
        gate_dfb = block(gate_k, 1, 2)
        product_dfb = block(1, 1, max(most_columns, most_units))  # and 4: all of a node's
        sums_written_dfb = block(1, gate_shares)
        # 3: act
        stack_dfb = block(gate_shares, 1, 2)
        tile_dfb = block(1, 1, 2)  # of m, then of pli
        act_tile_dfb = block(1, 1, 2)
        act_written_dfb = block(1, 1)
        # 4: the projection's products
        act_dfb = block(1, part_k, 2)
        projection_dfb = block(part_k, 1, 2)
        parts_written_dfb = block(1, parts_count)
        # 5: norm, residual, scalar; much of it serves 1 as well
        parts_dfb = block(parts_count, h_tiles)
        row_dfb = block(1, h_tiles)
        squares_dfb = block(1, h_tiles)
        ones_dfb = block(h_tiles, 1)
        total_dfb, high_dfb, low_dfb = block(1, 1), block(1, 1), block(1, 1)
        pieces_dfb = block(parts_count, 1, 2)
        h_dfb, w_dfb = block(1, 1, 2), block(1, 1, 2)
        scalar_dfb = block(1, 1)
        y_dfb = block(1, 1, 2)

        @ttl.datamovement()
        def exchange():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with m_dfb.reserve() as m_blk:

                def send_m(pipe: ttl.Pipe) -> None:
                    ttl.copy(m[0:1, 0:h_tiles], m_blk).wait()
                    ttl.copy(m_blk, pipe).wait()

                def receive_m(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, m_blk).wait()

                m_net.if_src(send_m)
                m_net.if_dst(receive_m)
            for n in range((node * h_tiles) // nodes, ((node + 1) * h_tiles) // nodes):
                with y_dfb.wait() as h2_tile:
                    ttl.copy(h2_tile, h2[0:1, n : n + 1]).wait()
            with h2_written_dfb.reserve() as token:

                def send_h2_written(pipe: ttl.Pipe) -> None:
                    ttl.copy(identities[0:1, 0:1], token).wait()
                    ttl.copy(token, pipe).wait()

                def receive_h2_written(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, token).wait()

                h2_written.if_src(send_h2_written)
                h2_written.if_dst(receive_h2_written)
            for share in range(gate_shares):
                k = share * gate_k
                with share_dfb.reserve() as share_blk:

                    def send_share(pipe: ttl.Pipe) -> None:
                        ttl.copy(h2[0:1, k : k + gate_k], share_blk).wait()
                        ttl.copy(share_blk, pipe).wait()

                    def receive_share(pipe: ttl.Pipe) -> None:
                        ttl.copy(pipe, share_blk).wait()

                    share_net.if_src(send_share)
                    share_net.if_dst(receive_share)
            for _ in range(1 // (1 + node_y // gate_shares)):
                for n in range((node_x * p_tiles) // grid_x, ((node_x + 1) * p_tiles) // grid_x):
                    with product_dfb.wait() as product:
                        ttl.copy(product, sums[node_y : node_y + 1, n : n + 1]).wait()
            with sums_written_dfb.reserve() as identity:

                def send_sums_written(pipe: ttl.Pipe) -> None:
                    ttl.copy(identities[0:1, 0:gate_shares], identity).wait()
                    ttl.copy(identity, pipe).wait()

                def receive_sums_written(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, identity).wait()

                sums_written.if_src(send_sums_written)
                sums_written.if_dst(receive_sums_written)
            for n in range((node * p_tiles) // nodes, ((node + 1) * p_tiles) // nodes):
                with stack_dfb.reserve() as stack:
                    ttl.copy(sums[0:gate_shares, n : n + 1], stack).wait()
                with act_tile_dfb.wait() as act_tile:
                    ttl.copy(act_tile, act[0:1, n : n + 1]).wait()
            with act_written_dfb.reserve() as token:

                def send_act_written(pipe: ttl.Pipe) -> None:
                    ttl.copy(identities[0:1, 0:1], token).wait()
                    ttl.copy(token, pipe).wait()

                def receive_act_written(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, token).wait()

                act_written.if_src(send_act_written)
                act_written.if_dst(receive_act_written)
            for part in range(parts_count):
                k = part * part_k
                with act_dfb.reserve() as act_blk:

                    def send_act(pipe: ttl.Pipe) -> None:
                        ttl.copy(act[0:1, k : k + part_k], act_blk).wait()
                        ttl.copy(act_blk, pipe).wait()

                    def receive_act(pipe: ttl.Pipe) -> None:
                        ttl.copy(pipe, act_blk).wait()

                    act_net.if_src(send_act)
                    act_net.if_dst(receive_act)
            for unit in range((node * units) // nodes, ((node + 1) * units) // nodes):
                with product_dfb.wait() as product:
                    r = unit // h_tiles
                    n = unit % h_tiles
                    ttl.copy(product, parts[r : r + 1, n : n + 1]).wait()
            with parts_written_dfb.reserve() as identity:

                def send_parts_written(pipe: ttl.Pipe) -> None:
                    ttl.copy(identities[0:1, 0:parts_count], identity).wait()
                    ttl.copy(identity, pipe).wait()

                def receive_parts_written(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, identity).wait()

                parts_written.if_src(send_parts_written)
                parts_written.if_dst(receive_parts_written)
            with parts_dfb.reserve() as parts_blk:

                def send_parts(pipe: ttl.Pipe) -> None:
                    ttl.copy(parts[0:parts_count, 0:h_tiles], parts_blk).wait()
                    ttl.copy(parts_blk, pipe).wait()

                def receive_parts(pipe: ttl.Pipe) -> None:
                    ttl.copy(pipe, parts_blk).wait()

                parts_net.if_src(send_parts)
                parts_net.if_dst(receive_parts)
            for n in range((node * h_tiles) // nodes, ((node + 1) * h_tiles) // nodes):
                with pieces_dfb.reserve() as pieces:
                    ttl.copy(parts[0:parts_count, n : n + 1], pieces).wait()
                with y_dfb.wait() as y_blk:
                    ttl.copy(y_blk, y[0:1, n : n + 1]).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            with ones_dfb.reserve() as ones:
                ones.store(ttl.math.fill(ones, 1.0))
            with first_dfb.reserve() as count:
                count.store(ttl.math.fill(count, count_value))
            with second_dfb.reserve() as count_low:
                count_low.store(ttl.math.fill(count_low, count_low_value))
            with third_dfb.reserve() as eps:
                eps.store(ttl.math.fill(eps, eps_value))
            with fourth_dfb.reserve() as eps_low:
                eps_low.store(ttl.math.fill(eps_low, eps_low_value))
            with m_dfb.wait() as m_blk, squares_dfb.reserve() as squares:
                squares.store(m_blk * m_blk)
            with squares_dfb.wait() as squares, ones_dfb.wait() as ones:
                with total_dfb.reserve() as total:
                    total.store(squares @ ones)
            with (
                total_dfb.wait() as total,
                first_dfb.wait() as count,
                second_dfb.wait() as count_low,
                third_dfb.wait() as eps,
                fourth_dfb.wait() as eps_low,
            ):
                with high_dfb.reserve() as high:
                    high.store(ttl.math.rsqrt(total * (count + count_low) + (eps + eps_low)))
                with high_dfb.wait() as high:
                    with low_dfb.reserve() as low:
                        low.store(
                            ttl.math.rsqrt(total * (count + count_low) + (eps + eps_low)) - high
                        )
                    with low_dfb.wait() as low:
                        for _ in range((node * h_tiles) // nodes, ((node + 1) * h_tiles) // nodes):
                            with (
                                tile_dfb.wait() as m_tile,
                                h_dfb.wait() as h_tile,
                                w_dfb.wait() as w_tile,
                            ):
                                with kept_dfb.reserve() as kept_tile:
                                    kept_tile.store(h_tile + m_tile * (high + low) * w_tile)
                                with y_dfb.reserve() as h2_tile:
                                    h2_tile.store(h_tile + m_tile * (high + low) * w_tile)
            with h2_written_dfb.wait() as _:
                pass
            for share in range(gate_shares):
                with share_dfb.wait() as share_blk:
                    off = node_y - share
                    for _ in range(1 // (1 + off * off)):  # once if the share is the row's
                        for _ in range(
                            (node_x * p_tiles) // grid_x, ((node_x + 1) * p_tiles) // grid_x
                        ):
                            with gate_dfb.wait() as gate_blk, product_dfb.reserve() as product:
                                product.store(share_blk @ gate_blk)
            with first_dfb.reserve() as one:
                one.store(ttl.math.fill(one, one_value))
            with second_dfb.reserve() as s_high:
                s_high.store(ttl.math.fill(s_high, s_high_value))
            with third_dfb.reserve() as s_low:
                s_low.store(ttl.math.fill(s_low, s_low_value))
            with fourth_dfb.reserve() as c_high:
                c_high.store(ttl.math.fill(c_high, c_high_value))
            with fifth_dfb.reserve() as c_low:
                c_low.store(ttl.math.fill(c_low, c_low_value))
            with (
                sums_written_dfb.wait() as identity,
                first_dfb.wait() as one,
                second_dfb.wait() as s_high,
                third_dfb.wait() as s_low,
                fourth_dfb.wait() as c_high,
                fifth_dfb.wait() as c_low,
            ):
                for _ in range((node * p_tiles) // nodes, ((node + 1) * p_tiles) // nodes):
                    with (
                        stack_dfb.wait() as stack,
                        tile_dfb.wait() as pli_blk,
                        act_tile_dfb.reserve() as act_tile,
                    ):
                        g = identity @ stack
                        slope = (s_high + s_low) + g * g * (c_high + c_low)
                        gelu = g * ttl.math.recip(one + ttl.math.exp(g * slope))
                        act_tile.store(pli_blk * gelu)
            with act_written_dfb.wait() as _:
                pass
            with ones_dfb.reserve() as ones:
                ones.store(ttl.math.fill(ones, 1.0))
            with first_dfb.reserve() as count:
                count.store(ttl.math.fill(count, count_value))
            with second_dfb.reserve() as count_low:
                count_low.store(ttl.math.fill(count_low, count_low_value))
            with third_dfb.reserve() as eps:
                eps.store(ttl.math.fill(eps, eps_value))
            with fourth_dfb.reserve() as eps_low:
                eps_low.store(ttl.math.fill(eps_low, eps_low_value))
            for part in range(parts_count):
                with act_dfb.wait() as act_blk:
                    for unit in range((node * units) // nodes, ((node + 1) * units) // nodes):
                        off = unit // h_tiles - part
                        for _ in range(1 // (1 + off * off)):  # once if the unit is of this part
                            with projection_dfb.wait() as projection_blk:
                                with product_dfb.reserve() as product:
                                    product.store(act_blk @ projection_blk)
            with parts_written_dfb.wait() as identity:
                with parts_dfb.wait() as parts_blk, row_dfb.reserve() as row:
                    row.store(identity @ parts_blk)
                with row_dfb.wait() as row, squares_dfb.reserve() as squares:
                    squares.store(row * row)
                with squares_dfb.wait() as squares, ones_dfb.wait() as ones:
                    with total_dfb.reserve() as total:
                        total.store(squares @ ones)
                with (
                    total_dfb.wait() as total,
                    first_dfb.wait() as count,
                    second_dfb.wait() as count_low,
                    third_dfb.wait() as eps,
                    fourth_dfb.wait() as eps_low,
                ):
                    with high_dfb.reserve() as high:
                        high.store(ttl.math.rsqrt(total * (count + count_low) + (eps + eps_low)))
                    with high_dfb.wait() as high:
                        with low_dfb.reserve() as low:
                            low.store(
                                ttl.math.rsqrt(total * (count + count_low) + (eps + eps_low)) - high
                            )
                        own = ((node + 1) * h_tiles) // nodes - (node * h_tiles) // nodes
                        with low_dfb.wait() as low:
                            for _ in range(1 - 1 // (1 + own)):  # once if it has a column
                                with scalar_dfb.wait() as scalar:
                                    for _ in range(own):
                                        with (
                                            pieces_dfb.wait() as pieces,
                                            kept_dfb.wait() as h2_tile,
                                            w_dfb.wait() as w_tile,
                                            y_dfb.reserve() as y_blk,
                                        ):
                                            e = identity @ pieces
                                            y_blk.store(
                                                (h2_tile + e * (high + low) * w_tile) * scalar
                                            )

        @ttl.datamovement()
        def stream():
            node_x, node_y = ttl.node(dims=2)
            node = node_y * grid_x + node_x
            for n in range((node * h_tiles) // nodes, ((node + 1) * h_tiles) // nodes):
                with tile_dfb.reserve() as m_tile:
                    ttl.copy(m[0:1, n : n + 1], m_tile).wait()
                with h_dfb.reserve() as h_tile:
                    ttl.copy(h[0:1, n : n + 1], h_tile).wait()
                with w_dfb.reserve() as w_tile:
                    ttl.copy(w_ff[0:1, n : n + 1], w_tile).wait()
            for _ in range(1 // (1 + node_y // gate_shares)):  # in the first Rg rows
                for n in range((node_x * p_tiles) // grid_x, ((node_x + 1) * p_tiles) // grid_x):
                    with gate_dfb.reserve() as gate_blk:
                        k = node_y * gate_k
                        ttl.copy(gate[k : k + gate_k, n : n + 1], gate_blk).wait()
            for n in range((node * p_tiles) // nodes, ((node + 1) * p_tiles) // nodes):
                with tile_dfb.reserve() as pli_blk:
                    ttl.copy(pli[0:1, n : n + 1], pli_blk).wait()
            for unit in range((node * units) // nodes, ((node + 1) * units) // nodes):
                with projection_dfb.reserve() as projection_blk:
                    k = (unit // h_tiles) * part_k
                    n = unit % h_tiles
                    ttl.copy(projection[k : k + part_k, n : n + 1], projection_blk).wait()
            own = ((node + 1) * h_tiles) // nodes - (node * h_tiles) // nodes
            for _ in range(1 - 1 // (1 + own)):  # once if it has a column
                with scalar_dfb.reserve() as scalar:
                    ttl.copy(s[0:1, 0:1], scalar).wait()
            for n in range((node * h_tiles) // nodes, ((node + 1) * h_tiles) // nodes):
                with w_dfb.reserve() as w_tile:
                    ttl.copy(w[0:1, n : n + 1], w_tile).wait()

    return operation
