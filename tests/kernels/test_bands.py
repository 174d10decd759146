"""Bands: any kv heads find some on any board, and the busiest node has as little as can be."""

from __future__ import annotations

import pytest

from kernels.bands import Bands, bands_for
from kernels.kv_append import KvAppendConfig
from kernels.qkv_units import QkvUnitsConfig, units_bands
from kernels.runtime import N150_GRID, P150_GRID, Grid

BOARDS: tuple[Grid, ...] = (P150_GRID, N150_GRID, (4, 2), (2, 1), (1, 2))


def within(bands: Bands, board: Grid) -> bool:
    return bands.grid[0] <= board[0] and bands.grid[1] <= board[1]


@pytest.mark.parametrize("board", BOARDS, ids=str)
@pytest.mark.parametrize("kv_heads", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("chunks", [1, 3, 8, 32, 256])
def test_both_kernels_find_a_grid(kv_heads: int, chunks: int, board: Grid) -> None:
    for head_dim in (128, 256, 512):
        bands = units_bands(kv_heads, chunks, board)
        config = QkvUnitsConfig(2 * kv_heads, kv_heads, head_dim, chunks, bands)
        assert within(config.bands, board)
        for tiles in (1, 2, 17):
            bands = bands_for(kv_heads, chunks * tiles, board)
            assert within(KvAppendConfig(chunks, kv_heads, head_dim, bands, tiles).bands, board)


@pytest.mark.parametrize(
    ("kv_heads", "pieces", "board", "turns", "nodes"),
    [
        (1, 32, P150_GRID, 1, 32),
        (2, 32, P150_GRID, 1, 64),
        (2, 34, N150_GRID, 2, 35),  # one band for both, of 7 × 5
        (16, 2, N150_GRID, 1, 32),
        (16, 4, N150_GRID, 1, 64),
        (8, 8, P150_GRID, 1, 64),
        (16, 1, (4, 2), 4, 8),
        (1, 1, (4, 2), 1, 2),
    ],
)
def test_few_turns_come_before_few_nodes(
    kv_heads: int, pieces: int, board: Grid, turns: int, nodes: int
) -> None:
    bands = bands_for(kv_heads, pieces, board)
    assert bands.heads_each(kv_heads) * -(-pieces // bands.nodes) == turns
    assert bands.nodes * bands.count == nodes


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no band of 2 nodes"):
        bands_for(1, 1, (1, 1))
    with pytest.raises(ValueError, match="at least 1"):
        bands_for(0, 1, P150_GRID)
    with pytest.raises(ValueError, match="at least 2 nodes a band"):
        Bands((1, 1), (4, 2))
    with pytest.raises(ValueError, match="16 bands: at most 8"):
        QkvUnitsConfig(16, 16, 256, 1, Bands((2, 1), (4, 4)))
    with pytest.raises(ValueError, match="do not fall into 2 bands"):
        KvAppendConfig(1, 3, 256, Bands((2, 1), (1, 2)))
