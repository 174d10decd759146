"""`qkv_heads` and `reshape_to_heads` in one launch: raw projections to attention's units, k and v.

    units[c, g] = rope(RMS(Σ_j to_units[c, j] @ raw q[head g · group + j]) · q_norm)
    k = rope(RMS(raw k) · k_norm)      v = RMS(raw v)

Norm and rotation work row by row, so rows may be selected first: exact, and then a core has one
block of 32 rows to work on instead of `group` heads.

qkv [32, (heads + 2 kv_heads) · D] bf16; to_units [chunks · 32, group · 32] and tokens
[(chunks + 1) · 32, 32] bf16, by units.to_units and units.tokens_of; norms [96, D] f32: 32 rows each
of q_norm, k_norm, and 1 for v; cos, sin [32, D / 2] bf16, one row a token; units [U · 32, D], k, v
[32, kv_heads · D] bf16. D is a multiple of 128. Layers without keys of their own: kv_heads stays,
`own_kv` is False, and k, v are not there. Values that are not normed (`value_norm` False): v is not
there; they are read where they are, from qkv (kv_append's `v_first`).

Cores: at most 8 bands (bands.py), each for some kv heads, one after the other; any chunks. Node i
of a band's C makes the units of chunks i, i + C, …. The band's first node reads the group's heads,
half by half, and multicasts them, once a pass; nodes without a chunk in the last pass drop them.
The last node of a band makes its v as well, the one before it its k: `units_bands` has room for
that in the last pass, where the board has.
Inside a core: as in qkv_heads.py, float32, one rounding.
DRAM: q once (once a pass), k, v once, the selections 2 · kv_heads times, a norm weight, cos and sin
once a block. For E4B, 32 chunks, D 256: 0.2 MB qkv, 1 MB selections, 3 MB norms and tables, 1 MB
of units written. L1: see `l1_bytes`.
Limits: as in qkv_heads.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernels.bands import Bands, bands_for, to_bands
from kernels.limits import epsilon, fits, whole_tiles
from kernels.runtime import TILE, Grid, like, ttl, ttnn

Kernel = Callable[..., None]
MOST_BANDS = 8
"""More of their multicasts do not fit a core's 70,656 B of programs: 16 are 352 B too many."""
_MANY = 1024
"""More than any count of blocks and nodes together."""


@dataclass(frozen=True)
class QkvUnitsConfig:
    """Heads of a layer, chunks that a step may have, the cores."""

    heads: int
    kv_heads: int
    head_dim: int
    chunks: int
    bands: Bands
    own_kv: bool = True
    k_eq_v: bool = False
    eps: float = 1e-6
    mean_over: int = 0
    """Values that the mean of squares counts, where a head is padded with zeros; 0 for all."""
    value_norm: bool = True

    def __post_init__(self) -> None:
        # with one tile a half the vendor's simulator refuses how the packer is set up anew
        whole_tiles("head_dim", self.head_dim, 4 * TILE)
        epsilon(self.eps)
        if self.kv_heads <= 0 or self.heads % self.kv_heads or TILE % self.group:
            raise ValueError(
                f"heads = {self.heads}, kv_heads = {self.kv_heads}: a group must divide {TILE}"
            )
        self.bands.heads_each(self.kv_heads)
        if self.bands.count > MOST_BANDS:
            raise ValueError(
                f"{self.bands.count} bands: at most {MOST_BANDS} fit a core's programs"
            )
        if not 0 < self.chunks <= _MANY // 2:
            raise ValueError(f"chunks = {self.chunks}: 1 to {_MANY // 2}")
        if not 0 <= self.mean_over <= self.head_dim:
            raise ValueError(f"mean_over = {self.mean_over} of head_dim = {self.head_dim}")
        fits("head_dim", self.head_dim, self.l1_bytes)

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.heads // self.kv_heads

    @property
    def grid(self) -> Grid:
        """All nodes."""
        return self.bands.grid

    @property
    def units(self) -> int:
        """Of 32 rows."""
        return self.chunks * self.kv_heads

    @property
    def half(self) -> int:
        """Tiles of half a head."""
        return self.head_dim // (2 * TILE)

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        return self.half * (10 * 2048 + 10 * 4096) + 4 * 4096 + 2 * 2048


def units_bands(kv_heads: int, chunks: int, board: Grid, own_kv: bool = True) -> Bands:
    """Bands for a config: the fewest turns, k's and v's among them."""
    return bands_for(kv_heads, chunks + 2 * own_kv, board, MOST_BANDS)


def qkv_units(config: QkvUnitsConfig) -> Kernel:
    """Operands: qkv, to_units, tokens, norms, cos, sin, units, k, v.

    Without `own_kv` no k and no v, without `value_norm` no v.
    """
    all_three = _qkv_units(config)
    if config.own_kv and config.value_norm:
        return all_three

    def without_v(
        qkv: ttnn.Tensor,
        to_units: ttnn.Tensor,
        tokens: ttnn.Tensor,
        norms: ttnn.Tensor,
        cos: ttnn.Tensor,
        sin: ttnn.Tensor,
        units: ttnn.Tensor,
        k: ttnn.Tensor,
    ) -> None:
        all_three(qkv, to_units, tokens, norms, cos, sin, units, k, units)  # v untouched

    def without_kv(
        qkv: ttnn.Tensor,
        to_units: ttnn.Tensor,
        tokens: ttnn.Tensor,
        norms: ttnn.Tensor,
        cos: ttnn.Tensor,
        sin: ttnn.Tensor,
        units: ttnn.Tensor,
    ) -> None:
        all_three(qkv, to_units, tokens, norms, cos, sin, units, units, units)  # k, v untouched

    return without_v if config.own_kv else without_kv


def _qkv_units(config: QkvUnitsConfig) -> Kernel:
    half, group, heads, kv_heads = config.half, config.group, config.heads, config.kv_heads
    chunks, own_k = config.chunks, int(config.own_kv)
    own_v = int(config.own_kv and config.value_norm)
    (band_x, band_y), bands_x, band = config.bands.band, config.bands.layout[0], config.bands.nodes
    each, passes = config.bands.heads_each(kv_heads), -(-chunks // band)
    v_first = heads if config.k_eq_v else heads + kv_heads
    share, eps = 1.0 / (config.mean_over or config.head_dim), config.eps
    many = _MANY

    # (n - 1 - i + many) // many is 1 where i < n, else 0: in a range it stands for an `if`. `+=`
    # would be wrong beside the other stores of the loop over blocks.

    @ttl.operation(grid=config.grid)
    def operation(
        qkv: ttnn.Tensor,
        to_units: ttnn.Tensor,
        tokens: ttnn.Tensor,
        norms: ttnn.Tensor,
        cos: ttnn.Tensor,
        sin: ttnn.Tensor,
        units: ttnn.Tensor,
        k: ttnn.Tensor,
        v: ttnn.Tensor,
    ) -> None:
        to_band = to_bands(config.bands)
        x_dfb = ttl.make_dataflow_buffer_like(qkv, shape=(1, half), block_count=2)
        pick_dfb = ttl.make_dataflow_buffer_like(to_units, shape=(1, 1), block_count=2)
        table_dfb = ttl.make_dataflow_buffer_like(cos, shape=(1, half), block_count=2)
        norm_low_dfb = ttl.make_dataflow_buffer_like(norms, shape=(1, half), block_count=1)
        norm_high_dfb = ttl.make_dataflow_buffer_like(norms, shape=(1, half), block_count=1)
        picked_dfb = ttl.make_dataflow_buffer_like(qkv, shape=(1, half), block_count=2)
        out_low_dfb = ttl.make_dataflow_buffer_like(units, shape=(1, half), block_count=2)
        out_high_dfb = ttl.make_dataflow_buffer_like(units, shape=(1, half), block_count=2)
        # float32, inside the core only
        share_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(half, 1), block_count=1)
        eps_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, 1), block_count=1)
        low_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        high_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        work_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        part_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, 1), block_count=1)
        mean_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, 1), block_count=1)
        inverse_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, 1), block_count=1)
        unit_low_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        unit_high_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        cos_f32_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)
        sin_f32_dfb = ttl.make_dataflow_buffer_like(like("f32"), shape=(1, half), block_count=1)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            first_head = ((node_y // band_y) * bands_x + node_x // band_x) * each
            place = (node_y % band_y) * band_x + node_x % band_x
            is_v = ((place + 1) // band) * own_v
            is_k = ((place + 2) // band - (place + 1) // band) * own_k
            for g in range(each):
                kv_head = first_head + g
                for p in range(passes):
                    chunk = p * band + place
                    works = (chunks - 1 - chunk + many) // many
                    for i in range(2 * group):  # all low halves, then all high ones
                        t = 2 * half * (kv_head * group + i % group) + (i // group) * half
                        for _ in range(works):
                            with pick_dfb.reserve() as pick:
                                j = i % group
                                ttl.copy(to_units[chunk : chunk + 1, j : j + 1], pick).wait()
                        with x_dfb.reserve() as x_blk:

                            def send(pipe: ttl.Pipe) -> None:
                                ttl.copy(qkv[0:1, t : t + half], x_blk).wait()
                                ttl.copy(x_blk, pipe).wait()

                            def receive(pipe: ttl.Pipe) -> None:
                                ttl.copy(pipe, x_blk).wait()

                            to_band.if_src(send)
                            to_band.if_dst(receive)
                    for _ in range(works):
                        with norm_low_dfb.reserve() as norm:
                            ttl.copy(norms[0:1, 0:half], norm).wait()
                        with norm_high_dfb.reserve() as norm:
                            ttl.copy(norms[0:1, half : 2 * half], norm).wait()
                        with pick_dfb.reserve() as pick:
                            ttl.copy(tokens[chunk : chunk + 1, 0:1], pick).wait()
                        with table_dfb.reserve() as table:
                            ttl.copy(cos[0:1, 0:half], table).wait()
                        with table_dfb.reserve() as table:
                            ttl.copy(sin[0:1, 0:half], table).wait()
                for _ in range(is_k + is_v):
                    head = (heads + kv_head) * is_k + (v_first + kv_head) * is_v
                    for i in range(2):
                        t = 2 * half * head + i * half
                        with pick_dfb.reserve() as pick:
                            ttl.copy(tokens[chunks : chunks + 1, 0:1], pick).wait()
                        with x_dfb.reserve() as x_blk:
                            ttl.copy(qkv[0:1, t : t + half], x_blk).wait()
                    r = 1 + is_v
                    with norm_low_dfb.reserve() as norm:
                        ttl.copy(norms[r : r + 1, 0:half], norm).wait()
                    with norm_high_dfb.reserve() as norm:
                        ttl.copy(norms[r : r + 1, half : 2 * half], norm).wait()
                for _ in range(is_k):
                    with pick_dfb.reserve() as pick:
                        ttl.copy(tokens[chunks : chunks + 1, 0:1], pick).wait()
                    with table_dfb.reserve() as table:
                        ttl.copy(cos[0:1, 0:half], table).wait()
                    with table_dfb.reserve() as table:
                        ttl.copy(sin[0:1, 0:half], table).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            place = (node_y % band_y) * band_x + node_x % band_x
            is_v = ((place + 1) // band) * own_v
            is_k = ((place + 2) // band - (place + 1) // band) * own_k
            for _ in range(each):
                for block in range(passes + is_k + is_v):
                    is_q = (passes - 1 - block + many) // many
                    more = (group - 1) * is_q
                    turns = is_q + (1 - is_q) * is_k
                    works = 1 - is_q * (1 - (chunks - 1 - block * band - place + many) // many)
                    for _ in range(works, 1):
                        for _ in range(2 * group):
                            with x_dfb.wait() as _:
                                pass
                    for _ in range(works):
                        with (
                            pick_dfb.wait() as pick,
                            x_dfb.wait() as x_blk,
                            picked_dfb.reserve() as picked,
                        ):
                            picked.store(pick @ x_blk)
                        for _ in range(more):
                            with pick_dfb.wait() as pick, x_dfb.wait() as x_blk:
                                with picked_dfb.wait() as before, picked_dfb.reserve() as picked:
                                    picked.store(before + pick @ x_blk)
                        with picked_dfb.wait() as picked, low_dfb.reserve() as low:
                            low.store(ttl.math.typecast(picked, ttnn.float32))
                        with (
                            pick_dfb.wait() as pick,
                            x_dfb.wait() as x_blk,
                            picked_dfb.reserve() as picked,
                        ):
                            picked.store(pick @ x_blk)
                        for _ in range(more):
                            with pick_dfb.wait() as pick, x_dfb.wait() as x_blk:
                                with picked_dfb.wait() as before, picked_dfb.reserve() as picked:
                                    picked.store(before + pick @ x_blk)
                        with picked_dfb.wait() as picked, high_dfb.reserve() as high:
                            high.store(ttl.math.typecast(picked, ttnn.float32))
                        with share_dfb.reserve() as share_blk:
                            share_blk.store(ttl.math.fill(share_blk, share))
                        with eps_dfb.reserve() as eps_blk:
                            eps_blk.store(ttl.math.fill(eps_blk, eps))
                        with low_dfb.wait() as low, high_dfb.wait() as high:
                            with work_dfb.reserve() as square:
                                square.store(low * low)
                            with share_dfb.wait() as share_blk:
                                with work_dfb.wait() as square, part_dfb.reserve() as part:
                                    part.store(square @ share_blk)
                                with work_dfb.reserve() as square:
                                    square.store(high * high)
                                with work_dfb.wait() as square, part_dfb.wait() as part:
                                    with mean_dfb.reserve() as mean:
                                        mean.store(part + square @ share_blk)
                            with mean_dfb.wait() as mean, eps_dfb.wait() as eps_blk:
                                with inverse_dfb.reserve() as inverse:
                                    inverse.store(ttl.math.rsqrt(mean + eps_blk))
                            with inverse_dfb.wait() as inverse:
                                with norm_low_dfb.wait() as norm, unit_low_dfb.reserve() as unit:
                                    unit.store(
                                        low * ttl.math.broadcast(inverse, unit, dims=[1]) * norm
                                    )
                                with norm_high_dfb.wait() as norm, unit_high_dfb.reserve() as unit:
                                    unit.store(
                                        high * ttl.math.broadcast(inverse, unit, dims=[1]) * norm
                                    )
                        with unit_low_dfb.wait() as unit_low, unit_high_dfb.wait() as unit_high:
                            for _ in range(turns):
                                with pick_dfb.wait() as pick:
                                    with table_dfb.wait() as table, picked_dfb.reserve() as picked:
                                        picked.store(pick @ table)
                                    with (
                                        picked_dfb.wait() as picked,
                                        cos_f32_dfb.reserve() as cos_f32,
                                    ):
                                        cos_f32.store(ttl.math.typecast(picked, ttnn.float32))
                                    with table_dfb.wait() as table, picked_dfb.reserve() as picked:
                                        picked.store(pick @ table)
                                    with (
                                        picked_dfb.wait() as picked,
                                        sin_f32_dfb.reserve() as sin_f32,
                                    ):
                                        sin_f32.store(ttl.math.typecast(picked, ttnn.float32))
                                with cos_f32_dfb.wait() as cos_f32, sin_f32_dfb.wait() as sin_f32:
                                    with work_dfb.reserve() as turned:
                                        turned.store(unit_low * cos_f32 - unit_high * sin_f32)
                                    with work_dfb.wait() as turned, out_low_dfb.reserve() as out:
                                        out.store(ttl.math.typecast(turned, ttnn.bfloat16))
                                    with work_dfb.reserve() as turned:
                                        turned.store(unit_high * cos_f32 + unit_low * sin_f32)
                                    with work_dfb.wait() as turned, out_high_dfb.reserve() as out:
                                        out.store(ttl.math.typecast(turned, ttnn.bfloat16))
                            for _ in range(turns, 1):
                                with out_low_dfb.reserve() as out:
                                    out.store(ttl.math.typecast(unit_low, ttnn.bfloat16))
                                with out_high_dfb.reserve() as out:
                                    out.store(ttl.math.typecast(unit_high, ttnn.bfloat16))

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            first_head = ((node_y // band_y) * bands_x + node_x // band_x) * each
            place = (node_y % band_y) * band_x + node_x % band_x
            is_v = ((place + 1) // band) * own_v
            is_k = ((place + 2) // band - (place + 1) // band) * own_k
            for g in range(each):
                kv_head = first_head + g
                for p in range(passes):
                    chunk = p * band + place
                    u = chunk * kv_heads + kv_head
                    for _ in range((chunks - 1 - chunk + many) // many):
                        with out_low_dfb.wait() as out:
                            ttl.copy(out, units[u : u + 1, 0:half]).wait()
                        with out_high_dfb.wait() as out:
                            ttl.copy(out, units[u : u + 1, half : 2 * half]).wait()
                t = 2 * half * kv_head
                for _ in range(is_k):
                    with out_low_dfb.wait() as out:
                        ttl.copy(out, k[0:1, t : t + half]).wait()
                    with out_high_dfb.wait() as out:
                        ttl.copy(out, k[0:1, t + half : t + 2 * half]).wait()
                for _ in range(is_v):
                    with out_low_dfb.wait() as out:
                        ttl.copy(out, v[0:1, t : t + half]).wait()
                    with out_high_dfb.wait() as out:
                        ttl.copy(out, v[0:1, t + half : t + 2 * half]).wait()

    return operation
