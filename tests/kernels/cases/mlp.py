"""The MLP in one launch, small and at the sizes of E2B (both widths) and E4B."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.mlp import MlpConfig, geglu_mlp
from kernels.runtime import Format, Grid
from tests.kernels.case import Case, Operand, Size, Tensors

FORMATS: tuple[Format, ...] = ("bf16", "bfp8")


def operands(config: MlpConfig) -> Callable[[torch.Generator], Sequence[Operand]]:
    h, f, shares = config.h, config.f, config.shares

    def make(generator: torch.Generator) -> list[Operand]:
        def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return torch.randn(*shape, generator=generator) * scale

        x = normal(32, h)
        x[5] *= 1e-3  # gates near zero, where gelu is half its argument
        x[7] *= 10.0  # gates of ten and more, where it is its argument or nothing
        return [
            Operand("x", x),
            Operand("gate", normal(h, f, scale=h**-0.5), config.weights),
            Operand("up", normal(h, f, scale=h**-0.5), config.weights),
            Operand("down", normal(f, h, scale=f**-0.5), config.weights),
            Operand("identities", torch.eye(32).repeat(1, shares)),
            Operand("act", torch.empty(32, f), role="scratch"),
            Operand("parts", torch.empty(32 * shares, h), role="scratch"),
            Operand("m", torch.empty(32, h), role="write"),
        ]

    return make


def oracle(held: Tensors) -> Tensors:
    gate, up = held["x"] @ held["gate"], held["x"] @ held["up"]
    gelu = torch.nn.functional.gelu(gate.double(), approximate="tanh").float()
    return {"m": (gelu * up) @ held["down"]}


def case(label: str, h: int, f: int, grid: Grid, size: Size, weights: Format) -> Case:
    config = MlpConfig(h, f, grid, weights)
    return Case(
        name=f"geglu_mlp-{label}-{weights}",
        kernel="geglu_mlp",
        shapes=f"32 × {h} · {h} × {f} (2) · {f} × {h} {weights}",
        grid=grid,
        operation=lambda: geglu_mlp(config),
        operands=operands(config),
        oracle=oracle,
        size=size,
        weights=("gate", "up", "down"),
        refused={} if weights == "bf16" else {"wolfpine": "block floats"},
    )


def table(weights: Format) -> list[Case]:
    return [
        case("two-nodes", 64, 128, (2, 1), "small", weights),
        case("uneven", 64, 192, (2, 2), "small", weights),
        case("idle-nodes", 64, 64, (2, 2), "small", weights),
        case("one-share", 96, 96, (2, 1), "small", weights),
        case("own-shares", 96, 128, (3, 2), "small", weights),
        case("narrow", 96, 64, (2, 1), "small", weights),
        case("270m", 640, 2048, (11, 10), "full", weights),
        case("e2b", 1536, 6144, (11, 10), "full", weights),
        case("e2b-wide", 1536, 12288, (11, 10), "full", weights),
        case("e4b", 2560, 10240, (11, 10), "full", weights),
        case("e2b-wide-n150", 1536, 12288, (8, 8), "full", weights),
        case("e4b-n150", 2560, 10240, (8, 8), "full", weights),
    ]


BFP4 = ("uneven", "one-share", "e2b-wide", "e4b", "e4b-n150")
CASES = [
    *(case for weights in FORMATS for case in table(weights)),
    *(case for case in table("bfp4") if case.name.split("-", 1)[1].removesuffix("-bfp4") in BFP4),
]
