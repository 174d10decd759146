"""Residual and next norm at once: rows of very different magnitudes, in place and not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.residual_norms import ResidualNormsConfig, residual_norms
from kernels.runtime import Grid, ttnn
from tests.kernels.case import Case, Operand, Size, Tensors
from tests.kernels.cases.norm import rms, rows, weight


def streams(d: int, generator: torch.Generator) -> torch.Tensor:
    """Residual streams: of tens, and rows where attention outweighs them or nothing is there."""
    h = 8 * torch.randn(32, d, generator=generator)
    for row, scale in ((10, 1e-3), (11, 0.0), (12, 40.0), (5, 1e-4), (8, 0.0)):
        h[row] *= scale
    h[13, d // 3] = 2000.0
    return h


def operands(d: int, in_place: bool) -> Callable[[torch.Generator], Sequence[Operand]]:
    def make(generator: torch.Generator) -> list[Operand]:
        h = streams(d, generator)
        stream = [Operand("h", h, role="update" if in_place else "read")]
        outputs = [] if in_place else [Operand("h_out", torch.empty(32, d), role="write")]
        return [
            Operand("a", rows(d, generator)),
            Operand("w1", weight(d, generator)),
            *stream,
            Operand("w2", weight(d, generator)),
            *outputs,
            Operand("x_out", torch.empty(32, d), role="write"),
        ]

    return make


def oracle(in_place: bool) -> Callable[[Tensors], Tensors]:
    def wanted(held: Tensors) -> Tensors:
        h = held["h"] + rms(held["a"], held["w1"])
        x = rms(h.bfloat16().float(), held["w2"])
        return {"h" if in_place else "h_out": h, "x_out": x}

    return wanted


def in_place_operation(config: ResidualNormsConfig) -> Callable[..., None]:
    """`h` is `h_out` as well."""
    kernel = residual_norms(config)

    def operation(
        a: ttnn.Tensor, w1: ttnn.Tensor, h: ttnn.Tensor, w2: ttnn.Tensor, x_out: ttnn.Tensor
    ) -> None:
        kernel(a, w1, h, w2, h, x_out)

    return operation


def case(label: str, d: int, grid: Grid, size: Size, in_place: bool = False) -> Case:
    config = ResidualNormsConfig(d, grid)
    return Case(
        name=f"residual_norms-{label}",
        kernel="residual_norms",
        shapes=f"32 × {d}",
        grid=grid,
        operation=lambda: in_place_operation(config) if in_place else residual_norms(config),
        operands=operands(d, in_place),
        oracle=oracle(in_place),
        size=size,
        roundings=3.0,
    )


CASES = [
    case("one-node", 128, (1, 1), "small"),
    case("uneven", 224, (2, 2), "small"),
    case("idle-nodes", 64, (4, 1), "small"),
    case("in-place", 160, (3, 1), "small", in_place=True),
    case("270m", 640, (10, 1), "full"),
    case("e2b", 1536, (8, 1), "full"),
    case("e4b", 2560, (8, 1), "full"),
    case("e4b-in-place", 2560, (11, 1), "full", in_place=True),
    case("12b", 3840, (8, 1), "full"),
    case("31b", 5376, (8, 1), "full"),
]
