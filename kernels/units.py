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

UNSEEN = -30_000.0
"""Added to the score of a position that a row does not see."""


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


def unit_mask(
    chunks: Sequence[Chunk | None],
    positions: Sequence[int],
    group: int,
    kv_heads: int,
    length: int,
    window: int | None,
) -> torch.Tensor:
    """What is added to scores: 0 where a row sees a place of the cache, `UNSEEN` elsewhere.

    Args:
        chunks: the step's, None where a chunk has no rows.
        positions: of each row of the step.
        group: query heads a kv head.
        kv_heads: of the layer.
        length: places of the cache: position p lies at p mod `length`.
        window: positions that a row sees, itself included; None: all.

    Returns:
        float32 [chunks · kv_heads · 32, length].
    """
    mask = torch.full((len(chunks), TILE, length), UNSEEN)
    for c, chunk in enumerate(chunks):
        for r, row in enumerate(chunk.rows if chunk else ()):
            last = positions[row]
            first = 0 if window is None else max(0, last - window + 1)
            seen = torch.arange(first, last + 1) % length
            for j in range(group):
                mask[c, r * group + j, seen] = 0.0
    spread = mask[:, None].expand(-1, kv_heads, -1, -1)
    return spread.reshape(len(chunks) * kv_heads * TILE, length)
