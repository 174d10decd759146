"""gelu_tanh(gate) · up: large gates, small ones, rows of one sign, at the MLPs' widths."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.gelu_mul import GELU_TILES, GeluMulConfig, gelu_mul
from kernels.runtime import Grid
from tests.kernels.case import Case, Operand, Size, Tensors

SHAPES: tuple[tuple[str, int, Grid, Size], ...] = (
    ("one-node", 64, (1, 1), "small"),
    ("uneven", 224, (2, 2), "small"),
    ("idle-nodes", 64, (2, 2), "small"),
    ("ple", 256, (8, 1), "full"),
    ("e2b", 6144, (11, 10), "full"),
    ("e2b-wide", 12288, (11, 10), "full"),
    ("e4b", 10240, (11, 10), "full"),
    ("e4b-n150", 10240, (8, 8), "full"),
)


def gates(f: int, generator: torch.Generator) -> torch.Tensor:
    """Rows from 1e-4 to 10 in size, and rows that are hard for a sigmoid."""
    gate = torch.randn(32, f, generator=generator) * torch.logspace(-4, 1, 32)[:, None]
    gate[0] = torch.linspace(-30, 30, f)
    gate[1] = torch.linspace(-1, 0, f)
    gate[2] = torch.linspace(-3, -0.5, f)  # negative only: the row's largest value is small
    gate[3] = -5.0
    gate[4] = 0.0
    gate[5] = -300.0  # exp overflows, the result is 0
    gate[6] = 300.0
    return gate


def operands(f: int) -> Callable[[torch.Generator], Sequence[Operand]]:
    constants = torch.cat([torch.full((32, 32), value) for value in GELU_TILES], 1)
    return lambda g: [
        Operand("gate", gates(f, g)),
        Operand("up", torch.randn(32, f, generator=g)),
        Operand("constants", constants),
        Operand("y", torch.empty(32, f), role="write"),
    ]


def oracle(held: Tensors) -> Tensors:
    """In double: torch's 1 + tanh loses a gate of -5 in float32."""
    gelu = torch.nn.functional.gelu(held["gate"].double(), approximate="tanh")
    return {"y": gelu.float() * held["up"]}


def case(label: str, f: int, grid: Grid, size: Size) -> Case:
    config = GeluMulConfig(f, grid)
    return Case(
        name=f"gelu_mul-{label}",
        kernel="gelu_mul",
        shapes=f"32 × {f}",
        grid=grid,
        operation=lambda: gelu_mul(config),
        operands=operands(f),
        oracle=oracle,
        size=size,
    )


CASES = [case(*shape) for shape in SHAPES]
