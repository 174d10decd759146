"""New keys and values put into their places of a cache, in place; the places are data.

    k_cache[s, g] = keep[s] @ k_cache[s, g] + place[s] @ k[head g]      v alike, in the same launch

k, v [32, kv_heads · D] bf16, one row a token; caches [slots · kv_heads · tiles · 32, D] bf16, read
as [slots, kv_heads, tiles · 32 positions, D]; selection [slots · tiles · 32, 64] bf16: for each
tile of positions a keep tile (the diagonal, 0 where a new row comes) and a place tile (row =
position in the tile, column = the token's row), made by `append_selection`. Any number of rows, of
any sequences, in any order: several of one sequence (drafts, a prompt's chunk), none, or positions
in two tiles. Every value is multiplied by one 1 and added to zeros: exact.

TT-Lang indexes nothing by data, so every tile that a position could fall into is read and written:

staging     tiles = 1 or 2 (tile = position // 32 % 2): the positions around a sequence's end. Then
            ttnn.experimental.paged_fill_cache(cache as [pages, 1, 32, D], staging as
            [1, 1, slots · kv_heads · tiles · 32, D], table [1, tile rows] int32 on the device,
            batch_idx=0) copies whole tile rows to the pages that the table names, −1 for none.
whole ring  tiles = W / 32: a sliding window's ring, with no staging and no flush. For W 512, D 256
            1 MB a slot and kv head and step (k + v, read and written), and 0.13 MB of selections:
            three times what attention reads of it.

v may be a wider tensor, the raw projections for a model that does not norm its values: `v_first` is
the head that its values begin with.

Cores: bands (bands.py; `bands_for(kv_heads, slots · tiles, board)`), each for some kv heads. The
first node of a band reads k's head and multicasts it, then v's; node i of a band's C owns tile rows
[i n / C, (i + 1) n / C) of n = slots · tiles, for keys and values both.
DRAM: k, v once; caches once, written once; the selection 2 · kv_heads times.
L1: see `l1_bytes`, 232 KB at D 512.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.bands import Bands, to_bands
from kernels.limits import fits, whole_tiles
from kernels.runtime import TILE, TILE_BYTES, Grid, ttl, ttnn

if TYPE_CHECKING:
    import torch

Kernel = Callable[[ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor, ttnn.Tensor], None]


@dataclass(frozen=True)
class KvAppendConfig:
    """Caches of `slots` sequences, of `tiles` · 32 positions each, and the cores."""

    slots: int
    kv_heads: int
    head_dim: int
    bands: Bands
    tiles: int = 1
    v_first: int = 0
    """The head of v's tensor that the values begin with."""

    def __post_init__(self) -> None:
        whole_tiles("head_dim", self.head_dim)
        for name in ("slots", "kv_heads", "tiles"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: at least 1")
        if self.v_first < 0:
            raise ValueError(f"v_first = {self.v_first}: at least 0")
        self.bands.heads_each(self.kv_heads)
        fits("head_dim", self.head_dim, self.l1_bytes)

    @property
    def grid(self) -> Grid:
        """All nodes."""
        return self.bands.grid

    @property
    def l1_bytes(self) -> int:
        """What the dataflow buffers of one core take."""
        return (7 * self.head_dim // TILE + 4) * TILE_BYTES["bf16"]


def append_selection(
    places: Sequence[tuple[int, int] | None], slots: int, tiles: int = 1
) -> torch.Tensor:
    """The selection for a step: row i of the step goes to `places[i]`, a slot and a position."""
    import torch

    selection = torch.zeros(slots, tiles * TILE, 2, TILE)
    selection[:, :, 0] = torch.eye(TILE).repeat(tiles, 1)
    for row, place in enumerate(places):
        if place is not None:
            slot, position = place
            selection[slot, position, 0] = 0.0
            selection[slot, position, 1, row] = 1.0
    return selection.reshape(slots * tiles * TILE, 2 * TILE)


def kv_append(config: KvAppendConfig) -> Kernel:
    """Operands: k, v, selection, k_cache, v_cache; the caches change in place."""
    width, kv_heads, tiles = config.head_dim // TILE, config.kv_heads, config.tiles
    rows, band, v_first = config.slots * tiles, config.bands.nodes, config.v_first
    (band_x, band_y), bands_x = config.bands.band, config.bands.layout[0]
    each = config.bands.heads_each(kv_heads)

    @ttl.operation(grid=config.grid)
    def operation(
        k: ttnn.Tensor,
        v: ttnn.Tensor,
        selection: ttnn.Tensor,
        k_cache: ttnn.Tensor,
        v_cache: ttnn.Tensor,
    ) -> None:
        k_to_band = to_bands(config.bands)
        v_to_band = to_bands(config.bands)
        new_k_dfb = ttl.make_dataflow_buffer_like(k, shape=(1, width), block_count=1)
        new_v_dfb = ttl.make_dataflow_buffer_like(v, shape=(1, width), block_count=1)
        keep_dfb = ttl.make_dataflow_buffer_like(selection, shape=(1, 1), block_count=2)
        place_dfb = ttl.make_dataflow_buffer_like(selection, shape=(1, 1), block_count=2)
        old_dfb = ttl.make_dataflow_buffer_like(k_cache, shape=(1, width), block_count=2)
        kept_dfb = ttl.make_dataflow_buffer_like(k_cache, shape=(1, width), block_count=1)
        out_dfb = ttl.make_dataflow_buffer_like(k_cache, shape=(1, width), block_count=2)

        @ttl.datamovement()
        def read():
            node_x, node_y = ttl.node(dims=2)
            first_head = ((node_y // band_y) * bands_x + node_x // band_x) * each
            place = (node_y % band_y) * band_x + node_x % band_x
            for g in range(each):
                kv_head = first_head + g
                head = kv_head * width
                v_head = head + v_first * width
                with new_k_dfb.reserve() as new:

                    def send_k(pipe: ttl.Pipe) -> None:
                        ttl.copy(k[0:1, head : head + width], new).wait()
                        ttl.copy(new, pipe).wait()

                    def receive_k(pipe: ttl.Pipe) -> None:
                        ttl.copy(pipe, new).wait()

                    k_to_band.if_src(send_k)
                    k_to_band.if_dst(receive_k)
                for r in range((place * rows) // band, ((place + 1) * rows) // band):
                    t = ((r // tiles) * kv_heads + kv_head) * tiles + r % tiles
                    with keep_dfb.reserve() as keep:
                        ttl.copy(selection[r : r + 1, 0:1], keep).wait()
                    with old_dfb.reserve() as old:
                        ttl.copy(k_cache[t : t + 1, 0:width], old).wait()
                    with place_dfb.reserve() as place_blk:
                        ttl.copy(selection[r : r + 1, 1:2], place_blk).wait()
                with new_v_dfb.reserve() as new:

                    def send_v(pipe: ttl.Pipe) -> None:
                        ttl.copy(v[0:1, v_head : v_head + width], new).wait()
                        ttl.copy(new, pipe).wait()

                    def receive_v(pipe: ttl.Pipe) -> None:
                        ttl.copy(pipe, new).wait()

                    v_to_band.if_src(send_v)
                    v_to_band.if_dst(receive_v)
                for r in range((place * rows) // band, ((place + 1) * rows) // band):
                    t = ((r // tiles) * kv_heads + kv_head) * tiles + r % tiles
                    with keep_dfb.reserve() as keep:
                        ttl.copy(selection[r : r + 1, 0:1], keep).wait()
                    with old_dfb.reserve() as old:
                        ttl.copy(v_cache[t : t + 1, 0:width], old).wait()
                    with place_dfb.reserve() as place_blk:
                        ttl.copy(selection[r : r + 1, 1:2], place_blk).wait()

        @ttl.compute()
        def compute():
            node_x, node_y = ttl.node(dims=2)
            place = (node_y % band_y) * band_x + node_x % band_x
            for _ in range(each):
                with new_k_dfb.wait() as new:
                    for _ in range((place * rows) // band, ((place + 1) * rows) // band):
                        with keep_dfb.wait() as keep, old_dfb.wait() as old:
                            with kept_dfb.reserve() as kept:
                                kept.store(keep @ old)
                        with kept_dfb.wait() as kept, place_dfb.wait() as place_blk:
                            with out_dfb.reserve() as out:
                                out.store(kept + place_blk @ new)
                with new_v_dfb.wait() as new:
                    for _ in range((place * rows) // band, ((place + 1) * rows) // band):
                        with keep_dfb.wait() as keep, old_dfb.wait() as old:
                            with kept_dfb.reserve() as kept:
                                kept.store(keep @ old)
                        with kept_dfb.wait() as kept, place_dfb.wait() as place_blk:
                            with out_dfb.reserve() as out:
                                out.store(kept + place_blk @ new)

        @ttl.datamovement()
        def write():
            node_x, node_y = ttl.node(dims=2)
            first_head = ((node_y // band_y) * bands_x + node_x // band_x) * each
            place = (node_y % band_y) * band_x + node_x % band_x
            for g in range(each):
                kv_head = first_head + g
                for r in range((place * rows) // band, ((place + 1) * rows) // band):
                    t = ((r // tiles) * kv_heads + kv_head) * tiles + r % tiles
                    with out_dfb.wait() as out:
                        ttl.copy(out, k_cache[t : t + 1, 0:width]).wait()
                for r in range((place * rows) // band, ((place + 1) * rows) // band):
                    t = ((r // tiles) * kv_heads + kv_head) * tiles + r % tiles
                    with out_dfb.wait() as out:
                        ttl.copy(out, v_cache[t : t + 1, 0:width]).wait()

    return operation
