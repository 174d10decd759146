"""The projections, small and at the sizes of E2B and E4B."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from kernels.linear import Kernel, LinearConfig, LinearHpConfig, linear, linear_hp
from kernels.runtime import N150_GRID, P150_GRID, Format, Grid
from tests.kernels.case import Case, Operand, Size, Tensors

FORMATS: tuple[Format, ...] = ("bf16", "bfp8")
Whole = tuple[int, int, Grid]
"""K, N, grid."""
Shared = tuple[int, int, Grid, int, int, int]
"""K, N, grid, k_block, n_block, k_split."""


def operands(
    k: int, n: int, weights: Format, k_split: int = 1
) -> Callable[[torch.Generator], Sequence[Operand]]:
    """Normal values; a row of zeros, a tiny, a large one, and one with its last value alone."""

    def make(generator: torch.Generator) -> list[Operand]:
        x = torch.randn(32, k, generator=generator)
        x[3] = 0.0
        x[5] *= 1e-6
        x[7] *= 1e4
        x[9, :-1] = 0.0
        w = torch.randn(k, n, generator=generator) * k**-0.5
        parts = [Operand("parts", torch.zeros(32 * k_split, n), role="scratch")]
        return [
            Operand("x", x),
            Operand("w", w, weights),
            *(parts if k_split > 1 else []),
            Operand("y", torch.empty(32, n), role="write"),
        ]

    return make


def one_each(generator: torch.Generator) -> Sequence[Operand]:
    """y is w: of many magnitudes, with zeros and groups of one value."""
    w = torch.randn(32, 64, generator=generator)
    w *= torch.exp2(torch.randint(-20, 20, w.shape, generator=generator).float())
    w[3] = 0.0
    w[5] = torch.randn(64, generator=generator)
    w[7, ::16], w[7, 1:16], w[7, 17:32] = 3.0, 0.0, -0.0
    w[9] = 1.875  # rounds up past the largest mantissa of three bits
    return [
        Operand("x", torch.eye(32)),
        Operand("w", w, "bfp4"),
        Operand("y", torch.empty(32, 64), role="write"),
    ]


def oracle(held: Tensors) -> Tensors:
    return {"y": held["x"] @ held["w"]}


def case(
    kernel: Callable[..., Kernel], label: str, config: LinearConfig | LinearHpConfig, size: Size
) -> Case:
    name = kernel.__name__
    return Case(
        name=f"{name}-{label}-{config.weights}",
        kernel=name,
        shapes=f"32 × {config.k} · {config.k} × {config.n} {config.weights}",
        grid=config.grid,
        operation=lambda: kernel(config),
        operands=operands(config.k, config.n, config.weights, getattr(config, "k_split", 1)),
        oracle=oracle,
        size=size,
        weights=("w",),
        refused={} if config.weights == "bf16" else {"wolfpine": "block floats"},
    )


SMALL_HP: dict[str, Whole] = {
    "one-node": (64, 64, (1, 1)),
    "uneven": (128, 224, (2, 2)),
    "idle-nodes": (64, 64, (2, 2)),
}
FULL_HP: dict[str, Whole] = {
    "e4b-q": (2560, 2048, (8, 8)),
    "e4b-q-full": (2560, 4096, P150_GRID),
    "e4b-qkv": (2560, 3072, P150_GRID),
    "e4b-o": (2048, 2560, (8, 10)),
    "e4b-o-full": (4096, 2560, (8, 10)),
    "e4b-gate": (2560, 10240, P150_GRID),
    "e4b-gate-n150": (2560, 10240, N150_GRID),
    "e4b-ple-up": (256, 2560, (8, 10)),
    "e4b-ple-model": (2560, 10752, P150_GRID),
    "e2b-q": (1536, 2048, (8, 8)),
    "e2b-q-full": (1536, 4096, P150_GRID),
    "e2b-gate": (1536, 6144, P150_GRID),
    "e2b-gate-wide": (1536, 12288, P150_GRID),
    "e2b-gate-n150": (1536, 6144, N150_GRID),
    "e2b-ple-model": (1536, 8960, P150_GRID),
}
SMALL: dict[str, Shared] = {
    "one-group": (64, 32, (1, 2), 1, 1, 2),
    "three-blocks": (384, 128, (2, 2), 2, 2, 2),
    "two-shares": (128, 128, (2, 2), 2, 2, 2),
    "four-shares": (256, 64, (1, 4), 1, 2, 4),
    "idle-group": (128, 32, (2, 2), 1, 1, 2),
}
FULL: dict[str, Shared] = {
    "e4b-kv": (2560, 512, N150_GRID, 20, 1, 4),
    "e4b-kv-full": (2560, 1024, N150_GRID, 20, 1, 2),
    "e4b-down": (10240, 2560, (8, 10), 32, 2, 2),
    "e4b-down-n150": (10240, 2560, N150_GRID, 16, 5, 4),
    "e4b-ple-down": (2560, 256, N150_GRID, 10, 1, 8),
    "e2b-kv": (1536, 256, N150_GRID, 6, 1, 8),
    "e2b-kv-full": (1536, 512, N150_GRID, 12, 1, 4),
    "e2b-o": (2048, 1536, (10, 10), 32, 1, 2),
    "e2b-o-full": (4096, 1536, (10, 10), 32, 1, 2),
    "e2b-down": (6144, 1536, (10, 10), 32, 1, 2),
    "e2b-down-wide": (12288, 1536, (10, 10), 64, 1, 2),
    "e2b-down-n150": (6144, 1536, N150_GRID, 16, 3, 4),
    "e2b-ple-up": (256, 1536, (10, 10), 4, 1, 2),
}


def table(weights: Format) -> list[Case]:
    sizes: tuple[tuple[Size, dict[str, Whole], dict[str, Shared]], ...] = (
        ("small", SMALL_HP, SMALL),
        ("full", FULL_HP, FULL),
    )
    cases: list[Case] = []
    for size, whole, shared in sizes:
        for label, shape in whole.items():
            cases.append(case(linear_hp, label, LinearHpConfig(*shape, weights), size))
        for label, shape in shared.items():
            cases.append(case(linear, label, LinearConfig(*shape, weights), size))
    return cases


CASES = [
    *(case for weights in FORMATS for case in table(weights)),
    replace(
        case(linear_hp, "one-each", LinearHpConfig(32, 64, (1, 1), "bfp4"), "small"),
        operands=one_each,
        roundings=0.0,
    ),
    case(linear_hp, "uneven", LinearHpConfig(*SMALL_HP["uneven"], "bfp4"), "small"),
    case(linear, "three-blocks", LinearConfig(*SMALL["three-blocks"], "bfp4"), "small"),
    case(linear_hp, "e4b-gate", LinearHpConfig(*FULL_HP["e4b-gate"], "bfp4"), "full"),
    case(linear, "e2b-down-n150", LinearConfig(*FULL["e2b-down-n150"], "bfp4"), "full"),
]
