"""Attention's output through o_proj, small and at the sizes of E2B, E4B, 12B and 31B."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.attention_out import AttentionOutConfig, attention_out
from kernels.heads import HeadsConfig
from kernels.runtime import N150_GRID, P150_GRID, Format, Grid
from kernels.units import chunks_of, filled, from_units
from tests.kernels.case import Case, Operand, Size, Tensors
from tests.kernels.cases.heads import MIXED, ONE_EACH, ONE_SEQUENCE, Step, tokens_of

FORMATS: tuple[Format, ...] = ("bf16", "bfp8")
Sizes = tuple[int, int, int, int, int, Grid]
"""Heads, kv heads, head_dim, chunks, N, grid."""
ONE_ROW: Step = [4, *[None] * 31]
FEW: Step = [3, 1, 1, None, 4, 1, 1, 1, *[None] * 24]


def operands(
    config: AttentionOutConfig, step: Step
) -> Callable[[torch.Generator], Sequence[Operand]]:
    """Normal values; rows of the output that no token fills are zero. Scratch is poisoned."""

    def make(generator: torch.Generator) -> list[Operand]:
        group = config.heads // config.kv_heads
        k = config.heads * config.head_dim
        chunks = filled(chunks_of(step, group), config.chunks)
        units = torch.randn(config.units * 32, config.head_dim, generator=generator)
        units[1] *= 1e-6
        units[2] *= 1e4
        w = torch.randn(k, config.n, generator=generator) * k**-0.5
        return [
            Operand("units", units),
            Operand("selection", from_units(chunks, group, config.kv_heads)),
            Operand("w", w, config.weights),
            Operand("identities", torch.eye(32).repeat(1, config.shares)),
            Operand("rows", torch.full(config.rows_shape, 77.0), role="scratch"),
            Operand("parts", torch.full(config.parts_shape, 77.0), role="scratch"),
            Operand("y", torch.empty(32, config.n), role="write"),
        ]

    return make


def case(label: str, sizes: Sizes, step: Step, size: Size, weights: Format) -> Case:
    config = AttentionOutConfig(*sizes, weights)
    heads = HeadsConfig(*sizes[:4], config.grid)

    def oracle(held: Tensors) -> Tensors:
        return {"y": tokens_of(held["units"], heads, step) @ held["w"]}

    k = config.heads * config.head_dim
    return Case(
        name=f"attention_out-{label}-{weights}",
        kernel="attention_out",
        shapes=f"{config.units} units of {config.head_dim} · {k} × {config.n} {weights}",
        grid=config.grid,
        operation=lambda: attention_out(config),
        operands=operands(config, step),
        oracle=oracle,
        size=size,
        weights=("w",),
        refused={} if weights == "bf16" else {"wolfpine": "block floats"},
    )


Row = tuple[str, Sizes, Step]
SMALL: list[Row] = [
    ("one-unit", (4, 1, 64, 1, 64, (2, 2)), ONE_ROW),
    ("two-shares", (4, 2, 64, 8, 64, (2, 2)), FEW),
    ("one-share", (4, 2, 64, 3, 160, (2, 2)), ONE_ROW),
    ("blocks-of-units", (4, 2, 64, 9, 96, (3, 3)), [*range(9), *[None] * 23]),
]
FULL: list[Row] = [
    ("e2b-one", (8, 1, 256, 1, 1536, P150_GRID), ONE_ROW),
    ("e2b-prompt", (8, 1, 256, 8, 1536, P150_GRID), ONE_SEQUENCE),
    ("e2b-four", (8, 1, 256, 4, 1536, P150_GRID), [0, 1, 1, 2, 3, *[None] * 27]),
    ("e2b", (8, 1, 256, 32, 1536, P150_GRID), MIXED),
    ("e2b-full-one", (8, 1, 512, 1, 1536, P150_GRID), ONE_ROW),
    ("e2b-full-four", (8, 1, 512, 4, 1536, P150_GRID), [0, 1, 1, 2, 3, *[None] * 27]),
    ("e2b-full", (8, 1, 512, 32, 1536, P150_GRID), ONE_EACH),
    ("e4b-one", (8, 2, 256, 1, 2560, P150_GRID), ONE_ROW),
    ("e4b-four", (8, 2, 256, 4, 2560, P150_GRID), ONE_SEQUENCE),
    ("e4b", (8, 2, 256, 32, 2560, P150_GRID), ONE_EACH),
    ("e4b-full-one", (8, 2, 512, 1, 2560, P150_GRID), ONE_ROW),
    ("e4b-full-four", (8, 2, 512, 4, 2560, P150_GRID), ONE_SEQUENCE),
    ("e4b-full", (8, 2, 512, 32, 2560, P150_GRID), MIXED),
    ("e2b-full-n150", (8, 1, 512, 32, 1536, N150_GRID), MIXED),
    ("e4b-full-n150", (8, 2, 512, 32, 2560, N150_GRID), ONE_EACH),
]


LARGE: list[Row] = [
    ("12b", (16, 8, 256, 32, 3840, P150_GRID), ONE_EACH),
    ("12b-full", (16, 1, 512, 4, 3840, P150_GRID), [0, 1, 1, 2, 3, *[None] * 27]),
]
"""Of a model that is served in block floats."""


def table(weights: Format) -> list[Case]:
    return [
        *(case(*row, "small", weights) for row in SMALL),
        *(case(*row, "full", weights) for row in FULL),
        *(case(*row, "full", weights) for row in LARGE if weights == "bfp8"),
    ]


def in_bfp4() -> list[Case]:
    labels = ("two-shares", "one-share", "e2b-full-one", "e4b-one", "e4b", "e4b-full-n150")
    rows: list[tuple[Row, Size]] = [*((r, "small") for r in SMALL), *((r, "full") for r in FULL)]
    some = [case(*row, size, "bfp4") for row, size in rows if row[0] in labels]
    return [*some, *(case(*row, "full", "bfp4") for row in LARGE)]


CASES = [*(case for weights in FORMATS for case in table(weights)), *in_bfp4()]
