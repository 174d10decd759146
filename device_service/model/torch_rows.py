"""The rows of one step as the layers need them: places, rotations, and what each span sees.

Knows positions and layer kinds; knows no weights. Made once a step and shared by all its layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from device_service.model.architecture import LayerConfig, LayerKind
from device_service.model.attention import Sight, sights
from device_service.model.interface import Span
from device_service.model.rope import rope_tables

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class SpanRows:
    """Consecutive rows of one sequence."""

    slot: int
    start: int
    """The position of the first row."""
    rows: slice
    """Where they are among the step's rows."""


@dataclass(frozen=True, slots=True)
class KindRows:
    """What rows have in common in all layers of one kind."""

    cos: Tensor
    """float32 [B, 1, H]"""
    sin: Tensor
    """float32 [B, 1, H]; negative in the first half: x · cos + roll(x, H/2) · sin rotates."""
    sights: tuple[tuple[int, Sight], ...]
    """Slots, and what blocks of their rows see; in order, all rows."""


@dataclass(frozen=True, slots=True)
class StepRows:
    """B rows: spans one after the other."""

    spans: tuple[SpanRows, ...]
    by_kind: Mapping[LayerKind, KindRows]


def place_rows(
    spans: Iterable[Span],
    layers: Iterable[LayerConfig],
    device: torch.device,
    *,
    only_read: bool,
) -> StepRows:
    """Lays out a step's rows.

    Args:
        spans: of the step.
        layers: one of each kind.
        device: where the tables go.
        only_read: only the rows whose readouts are wanted.
    """
    placed: list[SpanRows] = []
    positions: list[int] = []
    for span in spans:
        end = span.start + len(span.token_ids)
        start = end - span.num_readouts if only_read else span.start
        if start < end:
            first_row = len(positions)
            positions += range(start, end)
            placed.append(SpanRows(span.slot, start, slice(first_row, len(positions))))
    at = torch.tensor(positions, device=device)
    by_kind = {layer.kind: _kind_rows(layer, placed, at) for layer in layers}
    return StepRows(tuple(placed), by_kind)


def read_row_index(spans: Iterable[Span], device: torch.device) -> Tensor:
    """int64 [R]: which of a step's rows have readouts."""
    rows: list[int] = []
    end = 0
    for span in spans:
        end += len(span.token_ids)
        rows += range(end - span.num_readouts, end)
    return torch.tensor(rows, dtype=torch.int64, device=device)


def _kind_rows(layer: LayerConfig, spans: list[SpanRows], positions: Tensor) -> KindRows:
    cos, sin = rope_tables(layer.rope, layer.head_dim, positions)
    sin[:, : layer.head_dim // 2].neg_()
    seen = tuple(
        (span.slot, sight)
        for span in spans
        for sight in sights(span.start, span.rows, layer.window, layer.num_heads, positions.device)
    )
    return KindRows(cos[:, None], sin[:, None], seen)
