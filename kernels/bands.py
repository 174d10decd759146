"""Bands: equal rectangles of nodes, each for some kv heads; how many, and which, for a board.

A band of C nodes shares the work of a kv head, piece i, i + C, … or a range of pieces for node i;
its first node reads what all of them need and multicasts it. Where there are fewer bands than kv
heads, each takes equally many, one after the other. Knows no kernel and no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kernels.runtime import Grid, ttl


@dataclass(frozen=True)
class Bands:
    """Rectangles of `band` nodes, `layout` of them side by side: columns and rows, both."""

    band: Grid
    layout: Grid = (1, 1)

    def __post_init__(self) -> None:
        if min(*self.band, *self.layout) < 1 or self.nodes < 2:
            # a multicast to one node has no flow control
            raise ValueError(f"band = {self.band}, layout = {self.layout}: at least 2 nodes a band")

    @property
    def grid(self) -> Grid:
        """All nodes."""
        return self.band[0] * self.layout[0], self.band[1] * self.layout[1]

    @property
    def count(self) -> int:
        """Bands."""
        return self.layout[0] * self.layout[1]

    @property
    def nodes(self) -> int:
        """Of one band."""
        return self.band[0] * self.band[1]

    def heads_each(self, kv_heads: int) -> int:
        """Kv heads that each band takes.

        Raises:
            ValueError: they do not fall into the bands.
        """
        if kv_heads <= 0 or kv_heads % self.count:
            raise ValueError(f"kv_heads = {kv_heads} do not fall into {self.count} bands")
        return kv_heads // self.count


def bands_for(kv_heads: int, pieces: int, board: Grid, most: int = 16) -> Bands:
    """The bands in which the busiest node has least to do; of those, the fewest nodes.

    Args:
        kv_heads: of the layer.
        pieces: equal pieces of work for each of them.
        board: columns and rows of nodes that may be used.
        most: bands; each costs every core some 0.6 KB of program for each of the kernel's nets.

    Raises:
        ValueError: the board has but one node, or there is nothing to do.
    """
    if kv_heads <= 0 or pieces <= 0:
        raise ValueError(f"kv_heads = {kv_heads}, pieces = {pieces}: at least 1")

    def cost(bands: Bands) -> tuple[int, int, int, int]:
        turns = bands.heads_each(kv_heads) * -(-pieces // bands.nodes)
        return turns, bands.count * bands.nodes, bands.count, bands.grid[1]

    found = min(
        (bands for bands in _fitting(kv_heads, board) if bands.count <= most),
        key=cost,
        default=None,
    )
    if found is None:
        raise ValueError(f"board = {board}: no band of 2 nodes")
    return found


def _fitting(kv_heads: int, board: Grid) -> Iterator[Bands]:
    """All bands of 2 nodes or more on a board."""
    for columns in (n for n in range(1, board[0] + 1) if kv_heads % n == 0):
        for rows in (n for n in range(1, board[1] + 1) if kv_heads // columns % n == 0):
            for x in range(1, board[0] // columns + 1):
                for y in range(1, board[1] // rows + 1):
                    if x * y > 1:
                        yield Bands((x, y), (columns, rows))


def to_bands(bands: Bands) -> ttl.PipeNet:
    """From the first node of every band to all of it."""
    (x, y), (columns, rows) = bands.band, bands.layout
    return ttl.PipeNet(
        [
            ttl.Pipe(src=(c * x, r * y), dst=(slice(c * x, (c + 1) * x), slice(r * y, (r + 1) * y)))
            for r in range(rows)
            for c in range(columns)
        ]
    )
