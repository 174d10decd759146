"""A norm and its projections in one launch: rows of all magnitudes, shapes of E2B and E4B."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.norm_linear import NormLinearConfig, norm_linear
from kernels.runtime import Format, Grid
from tests.kernels.case import Case, Operand, Size, Tensors

EPS = 1e-6
FORMATS: tuple[Format, ...] = ("bf16", "bfp8")


def rows(k: int, generator: torch.Generator) -> torch.Tensor:
    """Normal values; rows where eps matters, a row of zeros, a large one, one with an outlier."""
    x = torch.randn(32, k, generator=generator)
    for row, scale in ((1, 1e-3), (2, 1e-4), (3, 1e-5), (5, 0.0), (6, 300.0)):
        x[row] *= scale
    x[7, k // 2] = 400.0
    return x


def operands(k: int, n: int, weights: Format) -> Callable[[torch.Generator], Sequence[Operand]]:
    def make(generator: torch.Generator) -> list[Operand]:
        scale = (1 + 0.5 * torch.randn(k, generator=generator)).expand(32, k)
        return [
            Operand("x", rows(k, generator)),
            Operand("norm", scale),
            Operand("w", torch.randn(k, n, generator=generator) * k**-0.5, weights),
            Operand("y", torch.empty(32, n), role="write"),
        ]

    return make


def oracle(held: Tensors) -> Tensors:
    x = held["x"]
    normed = x * (x.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * held["norm"]
    return {"y": normed @ held["w"]}


def case(label: str, k: int, n: int, grid: Grid, size: Size, weights: Format) -> Case:
    config = NormLinearConfig(k, n, grid, weights)
    return Case(
        name=f"norm_linear-{label}-{weights}",
        kernel="norm_linear",
        shapes=f"32 × {k} · {k} × {n} {weights}",
        grid=grid,
        operation=lambda: norm_linear(config),
        operands=operands(k, n, weights),
        oracle=oracle,
        size=size,
        weights=("w",),
        refused={} if weights == "bf16" else {"wolfpine": "block floats"},
    )


P150: Grid = (11, 10)
SHAPES: tuple[tuple[str, int, int, Grid, Size], ...] = (
    ("one-node", 64, 64, (1, 1), "small"),
    ("uneven", 128, 160, (2, 2), "small"),
    ("idle-nodes", 64, 64, (2, 2), "small"),
    ("e4b-qkv-sliding", 2560, 3072, P150, "full"),
    ("e4b-qkv-full", 2560, 6144, P150, "full"),
    ("e4b-q-sliding", 2560, 2048, P150, "full"),
    ("e4b-q-full", 2560, 4096, P150, "full"),
    ("e4b-qkv-sliding-n150", 2560, 3072, (8, 8), "full"),
    ("e2b-qkv-sliding", 1536, 2560, P150, "full"),
    ("e2b-qkv-full", 1536, 5120, P150, "full"),
    ("e2b-q-sliding", 1536, 2048, P150, "full"),
    ("e2b-q-full", 1536, 4096, P150, "full"),
    ("e2b-qkv-full-n150", 1536, 5120, (8, 8), "full"),
)
BFP4 = ("uneven", "e4b-qkv-full", "e2b-qkv-sliding", "e2b-q-full")
CASES = [
    *(case(*shape, weights) for weights in FORMATS for shape in SHAPES),
    *(case(*shape, "bfp4") for shape in SHAPES if shape[0] in BFP4),
]
