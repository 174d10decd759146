"""Tokens to units and back, for the ways in which 32 rows can be shared; every bit must arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.heads import HeadsConfig, reshape_from_heads, reshape_to_heads
from kernels.runtime import Grid
from kernels.units import chunks_of, filled, from_units, to_units
from tests.kernels.case import Case, Operand, Size, Tensors

Step = Sequence[int | None]
ONE_EACH: Step = range(32)
ONE_SEQUENCE: Step = [7] * 32
MIXED: Step = [3, 1, 1, None, 4, 1, 1, 1, 1, 9, 1, 1, 1, 1, 5, 5, 5, 5, 2, *[None] * 12, 3]
"""Rows of a draft and of a prompt apart from each other, idle rows between."""


def values(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Of many magnitudes, so that a sum with a neighbour would show."""
    exponent = torch.randint(-20, 20, shape, generator=generator)
    return torch.randn(shape, generator=generator) * 2.0**exponent


def units_of(x: torch.Tensor, config: HeadsConfig, step: Step) -> torch.Tensor:
    """The units, by copying row by row."""
    rows = x.reshape(32, config.kv_heads, config.group, config.head_dim)
    units = torch.zeros(config.chunks, config.kv_heads, 32, config.head_dim)
    for c, chunk in enumerate(chunks_of(step, config.group)):
        for r, row in enumerate(chunk.rows):
            first = r * config.group
            units[c, :, first : first + config.group] = rows[row]
    return units.reshape(-1, config.head_dim)


def tokens_of(units: torch.Tensor, config: HeadsConfig, step: Step) -> torch.Tensor:
    """The tokens' rows, by copying."""
    by_unit = units.reshape(config.chunks, config.kv_heads, 32, config.head_dim)
    x = torch.zeros(32, config.kv_heads, config.group, config.head_dim)
    for c, chunk in enumerate(chunks_of(step, config.group)):
        for r, row in enumerate(chunk.rows):
            first = r * config.group
            x[row] = by_unit[c, :, first : first + config.group]
    return x.flatten(1)


def to_case(label: str, config: HeadsConfig, step: Step, size: Size) -> Case:
    def operands(generator: torch.Generator) -> list[Operand]:
        chunks = chunks_of(step, config.group)
        return [
            Operand("x", values(32, config.heads * config.head_dim, generator=generator)),
            Operand("to_units", to_units(filled(chunks, config.chunks), config.group)),
            Operand("units", torch.empty(config.units * 32, config.head_dim), role="write"),
        ]

    def oracle(held: Tensors) -> Tensors:
        return {"units": units_of(held["x"], config, step)}

    return _case("reshape_to_heads", label, config, reshape_to_heads, operands, oracle, size)


def from_case(label: str, config: HeadsConfig, step: Step, size: Size) -> Case:
    def operands(generator: torch.Generator) -> list[Operand]:
        chunks = chunks_of(step, config.group)
        return [
            Operand("units", values(config.units * 32, config.head_dim, generator=generator)),
            Operand(
                "from_units",
                from_units(filled(chunks, config.chunks), config.group, config.kv_heads),
            ),
            Operand("x", torch.empty(32, config.heads * config.head_dim), role="write"),
        ]

    def oracle(held: Tensors) -> Tensors:
        return {"x": tokens_of(held["units"], config, step)}

    return _case("reshape_from_heads", label, config, reshape_from_heads, operands, oracle, size)


def _case(
    kernel: str,
    label: str,
    config: HeadsConfig,
    make: Callable[[HeadsConfig], Callable[..., None]],
    operands: Callable[[torch.Generator], Sequence[Operand]],
    oracle: Callable[[Tensors], Tensors],
    size: Size,
) -> Case:
    return Case(
        name=f"{kernel}-{label}",
        kernel=kernel,
        shapes=f"32 × {config.heads} heads of {config.head_dim}, {config.units} units",
        grid=config.grid,
        operation=lambda: make(config),
        operands=operands,
        oracle=oracle,
        size=size,
        roundings=0.0,
        refused={"wolfpine": "accumulation in L1"} if kernel == "reshape_to_heads" else {},
    )


def config(kv_heads: int, head_dim: int, chunks: int, grid: Grid) -> HeadsConfig:
    return HeadsConfig(8, kv_heads, head_dim, chunks, grid)


CASES = [
    to_case("mixed", HeadsConfig(4, 2, 64, 8, (2, 2)), MIXED[:12] + [None] * 20, "small"),
    to_case("one-sequence", HeadsConfig(8, 1, 64, 8, (2, 2)), ONE_SEQUENCE, "small"),
    to_case("e4b-sliding", config(2, 256, 32, (8, 8)), ONE_EACH, "full"),
    to_case("e4b-full", config(2, 512, 32, (8, 8)), MIXED, "full"),
    to_case("e4b-prompt", config(2, 256, 4, (4, 2)), ONE_SEQUENCE, "full"),
    to_case("e2b-sliding", config(1, 256, 32, (8, 4)), MIXED, "full"),
    to_case("e2b-full", config(1, 512, 32, (8, 4)), ONE_EACH, "full"),
    from_case("mixed", HeadsConfig(4, 2, 64, 8, (2, 2)), MIXED[:12] + [None] * 20, "small"),
    from_case("one-sequence", HeadsConfig(8, 1, 64, 8, (2, 2)), ONE_SEQUENCE, "small"),
    from_case("e4b-sliding", config(2, 256, 32, (8, 8)), ONE_EACH, "full"),
    from_case("e4b-full", config(2, 512, 32, (8, 8)), MIXED, "full"),
    from_case("e4b-prompt", config(2, 256, 4, (8, 8)), ONE_SEQUENCE, "full"),
    from_case("e2b-sliding", config(1, 256, 32, (8, 8)), MIXED, "full"),
    from_case("e2b-full", config(1, 512, 32, (8, 8)), ONE_EACH, "full"),
]
