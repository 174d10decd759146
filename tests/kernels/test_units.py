"""Selections and masks: attention over units is attention over heads, whoever sits where."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from kernels.units import STAGED, TILE, UNSEEN, Chunk, chunk_masks, chunks_of, from_units, to_units


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


def places_seen(mask: torch.Tensor, chunk: int, line: int) -> set[int]:
    row = mask.view(-1, TILE, mask.shape[1])[chunk, line]
    return {place for place in range(mask.shape[1]) if row[place] == 0}


@pytest.mark.parametrize("window", [None, 5, 64])
def test_a_row_sees_its_positions_wherever_the_rings_have_put_them(window: int | None) -> None:
    s, stride = (192, 256) if window is None else (64, 64)
    positions = [195, 196, 3, 0, 63, 64, 95]
    chunks = [Chunk(0, (0, 1)), None, Chunk(1, (2,)), Chunk(2, (3,)), Chunk(7, (4, 5, 6))]
    mask, mask_staged = chunk_masks(chunks, positions, 2, s, stride, window)
    assert (mask.shape, mask_staged.shape) == ((5 * TILE, s), (5 * TILE, STAGED))
    for c, chunk in enumerate(chunks):
        for line in range(TILE):
            cached, staged = set[int](), set[int]()
            if chunk and line < 2 * len(chunk.rows):
                last = positions[chunk.rows[line // 2]]
                flushed = max(0, (last // 32 - 1) * 32)
                for p in range(0 if window is None else max(0, last - window + 1), last + 1):
                    if p < flushed:
                        cached.add(p % stride)
                    else:
                        staged.add(p % STAGED)
            assert places_seen(mask, c, line) == cached
            assert places_seen(mask_staged, c, line) == staged
    assert {*mask.unique().tolist(), *mask_staged.unique().tolist()} == {0.0, UNSEEN}


@pytest.mark.parametrize("window", [None, 64])
def test_what_a_row_sees_depends_on_its_position_alone(window: int | None) -> None:
    s, stride = (192, 256) if window is None else (64, 64)
    alone = chunk_masks([Chunk(0, (0,))], [170], 4, s, stride, window)
    among = chunk_masks([None, Chunk(3, (4, 2))], [9, 9, 170, 9, 130], 4, s, stride, window)
    for one, many in zip(alone, among, strict=True):
        assert torch.equal(one[:4], many[TILE + 4 : TILE + 8])


@pytest.mark.parametrize(
    ("position", "s", "stride", "window", "seen"),
    [
        (128, 64, 128, None, "0 to 95"),
        (400, 64, 64, None, "0 to 351"),
        (200, 64, 128, 100, "101 to 159"),
        (200, 64, 64, 128, "73 to 159"),
    ],
    ids=["past the bucket", "past the context", "past the ring's bucket", "overwritten"],
)
def test_a_position_that_the_cache_does_not_show_is_refused(
    position: int, s: int, stride: int, window: int | None, seen: str
) -> None:
    said = f"a row sees {seen} in the cache, which has {stride} places, {s} of them read"
    with pytest.raises(ValueError, match=said):
        chunk_masks([Chunk(0, (0,))], [position], 8, s, stride, window)
