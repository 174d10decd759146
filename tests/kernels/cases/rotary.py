"""Rotary embedding: both layer kinds' tables, the first position, a long context, idle nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.rotary import RotaryConfig, rotary
from kernels.runtime import Grid
from tests.kernels.case import Case, Operand, Size, Tensors


def angles(head_dim: int, theta: float, turning: int) -> torch.Tensor:
    """Angle of every token and pair: positions 0, 1, a window's edge, the longest context, …"""
    position = torch.arange(32.0) * 37
    position[:6] = torch.tensor([0.0, 1.0, 511.0, 512.0, 8191.0, 131071.0])
    pair = torch.arange(head_dim // 2)
    frequency = torch.where(pair < turning, theta ** (-2.0 * pair / head_dim), 0.0)
    return position[:, None] * frequency


def table(head_dim: int) -> torch.Tensor:
    """Gemma's two kinds, and a small one that turns half of its pairs."""
    kinds = {256: (1e4, 128), 512: (1e6, 64)}
    return angles(head_dim, *kinds.get(head_dim, (1e4, head_dim // 4)))


def values(heads: int, head_dim: int, generator: torch.Generator) -> torch.Tensor:
    """Normal values; a row of zeros, one tiny, one large."""
    x = torch.randn(32, heads * head_dim, generator=generator)
    x[5] = 0.0
    x[7] *= 1e-6
    x[9] *= 1e3
    return x


def operands(heads: int, head_dim: int) -> Callable[[torch.Generator], Sequence[Operand]]:
    return lambda g: [
        Operand("x", values(heads, head_dim, g)),
        Operand("cos", table(head_dim).cos()),
        Operand("sin", table(head_dim).sin()),
        Operand("y", torch.empty(32, heads * head_dim), role="write"),
    ]


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Of [32, heads · D], with tables of D / 2."""
    head = x.reshape(32, -1, 2 * cos.shape[1])
    low, high = head.chunk(2, -1)
    turned = torch.cat([-high, low], -1)
    cos, sin = cos.repeat(1, 2)[:, None], sin.repeat(1, 2)[:, None]
    return (head * cos + turned * sin).flatten(1)


def oracle(held: Tensors) -> Tensors:
    return {"y": rotated(held["x"], held["cos"], held["sin"])}


def case(label: str, heads: int, head_dim: int, grid: Grid, size: Size) -> Case:
    config = RotaryConfig(heads, head_dim, grid)
    return Case(
        name=f"rotary-{label}",
        kernel="rotary",
        shapes=f"32 × {heads} heads of {head_dim}",
        grid=grid,
        operation=lambda: rotary(config),
        operands=operands(heads, head_dim),
        oracle=oracle,
        size=size,
    )


CASES = [
    case("one-node", 2, 128, (1, 1), "small"),
    case("uneven", 3, 64, (2, 1), "small"),
    case("idle-nodes", 2, 64, (2, 2), "small"),
    case("sliding", 8, 256, (4, 2), "full"),
    case("sliding-kv", 2, 256, (2, 1), "full"),
    case("full", 8, 512, (4, 2), "full"),
    case("full-kv", 2, 512, (2, 1), "full"),
]
