"""The steps that small checkpoints run on a simulated chip: a table, read by test and program.

Windows are 16 positions and rings 64 places, filled from staging of 128; full layers read 128
places at first and 256 from position 192 on: a few steps pass them all. Each number of slots
and of rows has programs of its own, minutes to compile: so most scenarios use slot 3 and single
rows or whole chunks. Knows steps; knows no device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from device_service.model.interface import Span, StepBatch
from kernels.runtime import P150_GRID, Grid
from tests.checkpoints import FAMILIES, VOCAB_SIZE, Family
from tests.chip.steps.judging import Weights

SECONDS = 1200.0
"""For a scenario, compiling included: the first of a decoder compiles all of its kernels."""

Piece = tuple[int, int, int, int]
"""Slot, start, rows, and how many of them are read."""


@dataclass(frozen=True)
class Scenario:
    """Steps of one decoder with empty slots."""

    name: str
    pieces: tuple[tuple[Piece, ...], ...]
    slots: int = 4
    context_length: int = 256

    def steps(self) -> list[StepBatch]:
        """With random tokens."""
        generator = torch.Generator().manual_seed(len(self.pieces))

        def span(slot: int, start: int, rows: int, read: int) -> Span:
            ids = torch.randint(107, VOCAB_SIZE, (rows,), generator=generator)
            return Span(slot, start, tuple(map(int, ids)), read)

        return [StepBatch(tuple(span(*piece) for piece in step)) for step in self.pieces]


def _prompt(slot: int, length: int, start: int = 0) -> list[tuple[Piece, ...]]:
    """In chunks of 32 rows, of which only the last row is read."""
    ends = [*range(start + 32, length, 32), length]
    starts = [start, *ends]
    return [
        ((slot, begin, end - begin, int(end == length)),)
        for begin, end in zip(starts, ends, strict=False)
    ]


def _of_all_lengths(slots: int) -> list[tuple[Piece, ...]]:
    """One to four rows in each slot, in steps of at most 32 rows with high slots in each."""
    steps: list[list[Piece]] = [[]]
    for n in range(slots):
        slot = n // 2 if n % 2 else slots - 1 - n // 2
        rows = 1 + slot % 4
        if sum(piece[2] for piece in steps[-1]) + rows > 32:
            steps.append([])
        steps[-1].append((slot, 0, rows, 0))
    return [tuple(step) for step in steps]


def _rows(slot: int, start: int, end: int) -> list[tuple[Piece, ...]]:
    """One row a step."""
    return [((slot, n, 1, 1),) for n in range(start, end)]


SCENARIOS: Sequence[Scenario] = (
    Scenario("decode-1", (((0, 0, 5, 5),), *_rows(0, 5, 9))),
    Scenario(
        "decode-3",
        (
            ((0, 0, 7, 1), (1, 0, 3, 1), (3, 0, 8, 1)),
            *(((0, 7 + n, 1, 1), (1, 3 + n, 1, 1), (3, 8 + n, 1, 1)) for n in range(4)),
        ),
    ),
    Scenario(
        "decode-32",
        (
            *_of_all_lengths(32),
            *(tuple((slot, 1 + slot % 4 + n, 1, 1) for slot in range(32)) for n in range(2)),
        ),
        slots=32,
        context_length=128,
    ),
    Scenario(
        "chunks",
        (
            ((3, 0, 32, 32),),
            ((3, 32, 27, 0),),
            ((3, 59, 1, 1), (0, 0, 31, 1)),
            ((0, 31, 8, 8), (3, 60, 8, 8), (2, 0, 16, 16)),
        ),
    ),
    Scenario(
        "rewind",
        (*_prompt(3, 70), ((3, 44, 5, 5),), ((3, 44, 4, 4), (0, 0, 2, 2)), *_rows(3, 46, 48)),
    ),
    Scenario("ring", (*_prompt(3, 158), *_rows(3, 158, 162), *_prompt(3, 192, 162))),
    Scenario(
        "bucket", (*_prompt(3, 190), *_rows(3, 190, 192), ((3, 192, 4, 4),), *_rows(3, 196, 197))
    ),
)


@dataclass(frozen=True)
class Run:
    """A scenario on a small checkpoint of a family."""

    family: Family
    weights: Weights
    scenario: Scenario
    grid: Grid = P150_GRID
    overrides: tuple[tuple[str, Any], ...] = ()
    """Of the checkpoint's configuration."""

    @property
    def name(self) -> str:
        """Unique; without spaces, for a command line."""
        return f"{self.family}/{self.weights}/{self.scenario.name}"


IN_BFP8 = ("decode-3", "chunks")
"""The weights' format does not meet what the other scenarios are about."""
ON_WOLFPINE = Run(
    "e2b",
    "bf16",
    Scenario("two-rows", (((0, 0, 2, 2),),), slots=1, context_length=64),
    grid=(2, 2),
    overrides=(
        ("layer_types", ["sliding_attention", "full_attention"]),
        ("num_hidden_layers", 2),
        ("num_kv_shared_layers", 0),
    ),
)
"""For a simulator in Python: few cores, a layer of each kind, one step."""


def all_runs() -> Iterator[Run]:
    """Every scenario of every family, those of one decoder side by side."""
    for family in FAMILIES:
        for scenario in sorted(SCENARIOS, key=lambda s: s.slots):
            yield Run(family, "bf16", scenario)
        for scenario in SCENARIOS:
            if scenario.name in IN_BFP8:
                yield Run(family, "bfp8", scenario)


def wolfpine_runs() -> list[Run]:
    """What a simulator in Python does in some minutes."""
    return [ON_WOLFPINE]
