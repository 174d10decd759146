"""Who sits in which unit of attention: selections and masks as data, built on the host.

A unit is what one attention core works on: 32 rows of one sequence and one kv head. A chunk is up
to 32 / group tokens of one sequence; group = heads / kv_heads query heads share a kv head. Unit
u = chunk · kv_heads + kv head; its row r · group + j holds token r of the chunk, query head j of
the group. Rows that no token fills are 0. So 32 sequences of one row each are 32 · kv_heads units;
32 rows of one sequence are group · kv_heads.

Knows torch and integers; knows no TT-Lang. The kernels that use these are in `heads.py` and
`attention.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.runtime import TILE

UNSEEN = -29_952.0
"""Added to the score of a place that a row does not see: -30000, as bfloat16 has it."""
STAGED = 4 * TILE
"""Places of a slot's staging: position p stands at p mod 128."""
GROUP = 16
"""Parts of a cache whose sums are added before the others', where it has more."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence that attend together."""

    sequence: int
    rows: tuple[int, ...]
    """Their rows of the step's tile row, in the order of their positions."""


def chunks_of(sequences: Sequence[int | None], group: int) -> tuple[Chunk, ...]:
    """Cuts a step into chunks; `sequences` names each row's sequence, None an idle row."""
    rows: dict[int, list[int]] = {}
    for row, sequence in enumerate(sequences):
        if sequence is not None:
            rows.setdefault(sequence, []).append(row)
    most = TILE // group
    return tuple(
        Chunk(sequence, tuple(all_rows[i : i + most]))
        for sequence, all_rows in rows.items()
        for i in range(0, len(all_rows), most)
    )


def filled(chunks: Sequence[Chunk], num_chunks: int) -> list[Chunk | None]:
    """The chunks of a step for a kernel of `num_chunks`: None where there is none."""
    return [*chunks, *[None] * (num_chunks - len(chunks))]


def to_units(chunks: Sequence[Chunk | None], group: int) -> torch.Tensor:
    """The selection of `reshape_to_heads`, [chunks · 32, group · 32]; None: a chunk of no rows."""
    selection = torch.zeros(len(chunks), TILE, group, TILE)
    for c, chunk in enumerate(chunks):
        for r, row in enumerate(chunk.rows if chunk else ()):
            for j in range(group):
                selection[c, r * group + j, j, row] = 1.0
    return selection.reshape(len(chunks) * TILE, group * TILE)


def tokens_of(chunks: Sequence[Chunk | None], group: int) -> torch.Tensor:
    """Which token each unit's row is, [(chunks + 1) · 32, 32]; the last tile takes every token."""
    tokens = to_units(chunks, group).reshape(-1, group, TILE).sum(1)
    return torch.cat([tokens, torch.eye(TILE)])


def from_units(chunks: Sequence[Chunk | None], group: int, kv_heads: int) -> torch.Tensor:
    """The selection of `reshape_from_heads`: [heads · 32, chunks · kv_heads · 32]."""
    selection = torch.zeros(kv_heads, group, TILE, len(chunks), kv_heads, TILE)
    for c, chunk in enumerate(chunks):
        for r, row in enumerate(chunk.rows if chunk else ()):
            for j in range(group):
                for g in range(kv_heads):
                    selection[g, j, row, c, g, r * group + j] = 1.0
    return selection.reshape(kv_heads * group * TILE, len(chunks) * kv_heads * TILE)


View = tuple[int, int]
"""The first position that a row sees, and the first of those that it sees in staging."""


def views(
    chunks: Sequence[Chunk | None], positions: Sequence[int], window: int | None
) -> tuple[tuple[View, ...], ...]:
    """What decides a cache's mask, by chunk and row: equal views, equal masks.

    A row at position p sees positions below F = max(0, (p // 32 - 1) · 32) in the cache, and F to
    p, at most 64, in staging: where it looks for what depends on p alone, not on the step.
    """

    def view(last: int) -> View:
        first = 0 if window is None else max(0, last - window + 1)
        return first, max(0, (last // TILE - 1) * TILE)

    return tuple(
        tuple(view(positions[row]) for row in chunk.rows) if chunk else () for chunk in chunks
    )


def cache_mask(seen: Sequence[Sequence[View]], group: int, s: int, stride: int) -> torch.Tensor:
    """The first of `chunk_masks`, from `views`."""
    mask = torch.full((len(seen), TILE, s), UNSEEN, dtype=torch.bfloat16)
    for c, rows in enumerate(seen):
        for r, (first, flushed) in enumerate(rows):
            if flushed - first > stride or (first < flushed and min(flushed, stride) > s):
                raise ValueError(
                    f"a row sees {first} to {flushed - 1} in the cache, "
                    f"which has {stride} places, {s} of them read"
                )
            _see(mask[c, r * group : (r + 1) * group], first, flushed, stride)
    return mask.view(-1, s)


def chunk_masks(
    chunks: Sequence[Chunk | None],
    positions: Sequence[int],
    group: int,
    s: int,
    stride: int,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added to scores: 0 where a row sees a place (see `views`), `UNSEEN` elsewhere.

    Args:
        chunks: the step's, None where a chunk has no rows.
        positions: of each row of the step.
        group: query heads a kv head: rows of a unit that a token has.
        s: places of the cache that are read, the first ones.
        stride: places that a slot has there: position q lies at q mod `stride`.
        window: positions that a row sees, itself included; None: all.

    Returns:
        bfloat16 [chunks · 32, s] for the cache, [chunks · 32, 128] for staging.

    Raises:
        ValueError: a row sees what the cache does not hold, or not in its first `s` places.
    """
    seen = views(chunks, positions, window)
    mask = cache_mask(seen, group, s, stride)
    return mask, staged_mask(seen, chunks, positions, group)


def staged_mask(
    seen: Sequence[Sequence[View]],
    chunks: Sequence[Chunk | None],
    positions: Sequence[int],
    group: int,
) -> torch.Tensor:
    """The second of `chunk_masks`, from `views`."""
    mask = torch.full((len(chunks), TILE, STAGED), UNSEEN, dtype=torch.bfloat16)
    for c, chunk in enumerate(chunks):
        for r, row in enumerate(chunk.rows if chunk else ()):
            heads = slice(r * group, (r + 1) * group)
            _see(mask[c, heads], max(seen[c][r]), positions[row] + 1, STAGED)
    return mask.view(-1, STAGED)


def _see(rows: torch.Tensor, first: int, end: int, ring: int) -> None:
    """Opens the places of positions first … end - 1, at most `ring` of them."""
    if first >= end:
        return
    start, stop = first % ring, (end - 1) % ring + 1
    if start < stop:
        rows[:, start:stop] = 0.0
    else:
        rows[:, start:] = 0.0
        rows[:, :stop] = 0.0
