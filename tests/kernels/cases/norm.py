"""RMSNorm, alone and behind a residual, with rows of very different magnitudes side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.norm import NormConfig, residual_norm, rms_norm, rms_norm_naive
from kernels.runtime import Grid
from tests.kernels.case import Case, Operand, Size, Tensors

EPS = 1e-6


def rows(d: int, generator: torch.Generator) -> torch.Tensor:
    """Normal values; then rows where eps matters, rows of outliers, of one value, and of zeros."""
    x = torch.randn(32, d, generator=generator)
    for row, scale in ((1, 1e-3), (2, 1e-4), (3, 1e-5), (4, 1e-7), (5, 0.0), (6, 300.0)):
        x[row] *= scale
    x[7, d // 2] = 400.0
    x[8] = 0.0
    x[8, d - 1] = 1.0
    x[9] = 0.75
    x[10, ::2] *= 1e-4
    return x


def weight(d: int, generator: torch.Generator) -> torch.Tensor:
    """As a trained norm's: around 1, a few large, a few below 0."""
    w = 1 + 0.5 * torch.randn(d, generator=generator)
    w[:: d // 4] *= 30
    return w.expand(32, d)


def rms(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * w


def of_norm(d: int) -> Callable[[torch.Generator], Sequence[Operand]]:
    return lambda g: [
        Operand("x", rows(d, g)),
        Operand("w", weight(d, g)),
        Operand("y", torch.empty(32, d), role="write"),
    ]


def of_residual(scalar: float) -> Callable[[int], Callable[[torch.Generator], Sequence[Operand]]]:
    return lambda d: (
        lambda g: [
            Operand("x", rows(d, g)),
            Operand("w", weight(d, g)),
            Operand("h", 8 * torch.randn(32, d, generator=g)),
            Operand("s", torch.full((32, 32), scalar)),
            Operand("y", torch.empty(32, d), role="write"),
        ]
    )


def normed(held: Tensors) -> Tensors:
    return {"y": rms(held["x"], held["w"])}


def added(held: Tensors) -> Tensors:
    return {"y": (held["h"] + rms(held["x"], held["w"])) * held["s"][0, 0]}


SHAPES: tuple[tuple[str, int, Grid, Size], ...] = (
    ("one-node", 128, (1, 1), "small"),
    ("uneven", 224, (2, 2), "small"),
    ("idle-nodes", 64, (4, 1), "small"),
    ("e2b", 1536, (1, 1), "full"),
    ("e4b", 2560, (1, 1), "full"),
    ("e4b-row", 2560, (8, 1), "full"),
    ("31b", 5376, (8, 1), "full"),
)
KERNELS = {
    "rms_norm": (rms_norm, of_norm, normed, 2.0),
    "rms_norm_naive": (rms_norm_naive, of_norm, normed, 2.0),
    "residual_norm": (residual_norm, of_residual(1.0), added, 2.0),
    "residual_norm-scaled": (residual_norm, of_residual(0.71875), added, 2.0),
}


def case(name: str, label: str, d: int, grid: Grid, size: Size) -> Case:
    make, operands, oracle, bound = KERNELS[name]
    config = NormConfig(d, grid)
    return Case(
        name=f"{name}-{label}",
        kernel=name.removesuffix("-scaled"),
        shapes=f"32 × {d}",
        grid=grid,
        operation=lambda: make(config),
        operands=operands(d),
        oracle=oracle,
        size=size,
        roundings=bound,
    )


CASES = [case(name, *shape) for name in KERNELS for shape in SHAPES]
