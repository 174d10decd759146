"""The boards that a plan can be made for: what each offers, from public data and the field guide.

Knows numbers of hardware; knows no model. A board's DRAM is what its banks hold together, less what
firmware and dispatch keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kernels.runtime import N150_GRID, P150_GRID

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Board:
    """One chip of a board, as its programs see it."""

    name: str
    grid: tuple[int, int]
    """Columns and rows of cores that kernels may use."""
    dram_bytes: int
    """Of all banks."""
    dram_bytes_per_second: float
    bandwidth_share: float
    """Of `dram_bytes_per_second` that streaming reads are known to reach."""
    reserved_bytes: int = GIB
    """Kept of the DRAM for programs, traces and what ttnn's own operations need."""

    @property
    def cores(self) -> int:
        """Cores that kernels may use."""
        return self.grid[0] * self.grid[1]

    @property
    def usable_bytes(self) -> int:
        """DRAM that a plan may fill."""
        return self.dram_bytes - self.reserved_bytes


BOARDS: Mapping[str, Board] = MappingProxyType(
    {
        board.name: board
        for board in (
            Board("p150", P150_GRID, 8 * 4_278_190_016, 512e9, 0.90),
            Board("p100", P150_GRID, 7 * 4_278_190_016, 448e9, 0.90),
            Board("n150", N150_GRID, 12 * 1_073_741_792, 288e9, 0.92),
            Board("n300", N150_GRID, 12 * 1_073_741_792, 288e9, 0.92),
        )
    }
)
"""By name. n300 is one of its two chips. Banks are as ttnn's allocator tells them."""
