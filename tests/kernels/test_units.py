"""Selections and masks: attention over units is attention over heads, whoever sits where."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from kernels.units import TILE, UNSEEN, Chunk, chunks_of, from_units, to_units, unit_mask


def spread(x: torch.Tensor, selection: torch.Tensor, group: int, kv_heads: int) -> torch.Tensor:
    """What `reshape_to_heads` computes: [32, heads · D] → [chunks · kv_heads, 32, D]."""
    heads = x.view(TILE, kv_heads, group, -1)
    picks = selection.view(-1, TILE, group, TILE)
    units = torch.einsum("curt,tgud->cgrd", picks.permute(0, 2, 1, 3), heads)
    return units.reshape(-1, TILE, heads.shape[-1])


def gathered(units: torch.Tensor, selection: torch.Tensor) -> torch.Tensor:
    """What `reshape_from_heads` computes: [chunks · kv_heads, 32, D] → [32, heads · D]."""
    rows = selection @ units.reshape(-1, units.shape[-1])
    return rows.view(-1, TILE, units.shape[-1]).transpose(0, 1).reshape(TILE, -1)


@pytest.mark.parametrize(("group", "kv_heads"), [(4, 2), (8, 1), (2, 4), (1, 3)])
@pytest.mark.parametrize(
    "sequences",
    [[0], [3] * 32, list(range(32)), [0, 0, 0, 1, 2, 2, None, 2], [5] * 9 + [1] * 9],
    ids=["one row", "one prompt", "32 sequences", "mixed", "two prompts"],
)
def test_rows_go_to_units_and_come_back(
    sequences: Sequence[int | None], group: int, kv_heads: int
) -> None:
    x = torch.randn(TILE, group * kv_heads * 32)
    chunks = chunks_of(sequences, group)
    units = spread(x, to_units(chunks, group), group, kv_heads)
    back = gathered(units, from_units(chunks, group, kv_heads))
    for row in range(TILE):
        is_there = row < len(sequences) and sequences[row] is not None
        assert torch.equal(back[row], x[row] if is_there else torch.zeros_like(x[row]))


def test_a_chunk_holds_as_many_tokens_as_its_tile_has_rows_for() -> None:
    assert chunks_of([7, 7, None, 7, 1, 7, 7], 8) == (
        Chunk(7, (0, 1, 3, 5)),
        Chunk(7, (6,)),
        Chunk(1, (4,)),
    )


def test_a_unit_holds_token_and_query_head_in_this_order() -> None:
    x = torch.arange(TILE * 4.0).view(TILE, 4).repeat_interleave(32, dim=1)
    units = spread(x, to_units([Chunk(0, (3, 9))], 2), 2, 2)
    assert units[:, :5, 0].tolist() == [[12, 13, 36, 37, 0], [14, 15, 38, 39, 0]]


@pytest.mark.parametrize("window", [None, 5, 32])
def test_a_row_sees_its_positions_wherever_the_ring_has_put_them(window: int | None) -> None:
    length, positions = 64, [70, 71, 3, 0]
    chunks = [Chunk(0, (0, 1)), None, Chunk(1, (2,)), Chunk(2, (3,))]
    if window is None:
        positions = [60, 61, 3, 0]
    mask = unit_mask(chunks, positions, 2, 3, length, window).view(4, 3, TILE, length)
    for c, chunk in enumerate(chunks):
        for r, row in enumerate(chunk.rows if chunk else ()):
            last = positions[row]
            first = 0 if window is None else max(0, last - window + 1)
            wanted = {p % length for p in range(first, last + 1)}
            for line in (2 * r, 2 * r + 1):
                assert set((mask[c, 1, line] == 0).nonzero().flatten().tolist()) == wanted
    assert (mask[1] == UNSEEN).all()
    assert (mask[0, 0, 4:] == UNSEEN).all()
    assert torch.equal(mask[:, 0], mask[:, 2])
