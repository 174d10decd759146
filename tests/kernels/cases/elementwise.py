"""Sums, products, a scale, a copy and the softcap, with values that are hard for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels import elementwise as kernels
from kernels.elementwise import ElementwiseConfig
from kernels.runtime import Grid
from tests.kernels.case import Case, Operand, Size, Tensors

CAP = 30.0
SHAPES: tuple[tuple[str, int, Grid, Size], ...] = (
    ("one-node", 64, (1, 1), "small"),
    ("uneven", 224, (2, 2), "small"),
    ("idle-nodes", 64, (2, 2), "small"),
    ("e2b", 1536, (8, 6), "full"),
    ("e4b", 2560, (8, 10), "full"),
)


def values(d: int, generator: torch.Generator, scale: float) -> torch.Tensor:
    """Normal values; one row of zeros and one a million times smaller than the rest."""
    tensor = torch.randn(32, d, generator=generator) * scale
    tensor[5] = 0.0
    tensor[7] *= 1e-6
    return tensor


def two(d: int, scale: float) -> Callable[[torch.Generator], Sequence[Operand]]:
    return lambda g: [
        Operand("a", values(d, g, scale)),
        Operand("b", values(d, g, scale)),
        Operand("y", torch.empty(32, d), role="write"),
    ]


def scaled(d: int, scale: float) -> Callable[[torch.Generator], Sequence[Operand]]:
    return lambda g: [
        Operand("a", values(d, g, scale)),
        Operand("s", torch.full((32, 32), 0.8125)),
        Operand("y", torch.empty(32, d), role="write"),
    ]


def one(d: int, scale: float) -> Callable[[torch.Generator], Sequence[Operand]]:
    return lambda g: [
        Operand("a", values(d, g, scale)),
        Operand("y", torch.empty(32, d), role="write"),
    ]


def capped(d: int, scale: float) -> Callable[[torch.Generator], Sequence[Operand]]:
    constants = torch.cat([torch.full((32, 32), 1 / CAP), torch.full((32, 32), CAP)], 1)
    return lambda g: [
        Operand("a", values(d, g, scale)),
        Operand("constants", constants),
        Operand("y", torch.empty(32, d), role="write"),
    ]


def softcap(held: Tensors) -> Tensors:
    constants = held["constants"]
    return {"y": constants[0, 32] * torch.tanh(held["a"] * constants[0, 0])}


KERNELS = {
    "residual_add": (kernels.residual_add, two, 1.0, lambda h: {"y": h["a"] + h["b"]}),
    "elementwise_mul": (kernels.elementwise_mul, two, 1.0, lambda h: {"y": h["a"] * h["b"]}),
    "scalar_mul": (kernels.scalar_mul, scaled, 1.0, lambda h: {"y": h["a"] * h["s"][0, 0]}),
    "copy": (kernels.copy, one, 1.0, lambda h: {"y": h["a"]}),
    "softcap": (kernels.softcap, capped, 40.0, softcap),
}


def case(kernel: str, label: str, d: int, grid: Grid, size: Size) -> Case:
    make, operands, scale, oracle = KERNELS[kernel]
    config = ElementwiseConfig(d, grid)
    return Case(
        name=f"{kernel}-{label}",
        kernel=kernel,
        shapes=f"32 × {d}",
        grid=grid,
        operation=lambda: make(config),
        operands=operands(d, scale),
        oracle=oracle,
        size=size,
        roundings=0.0 if kernel == "copy" else 2.0,
    )


CASES = [
    case(kernel, label, d, grid, size) for kernel in KERNELS for label, d, grid, size in SHAPES
]
