"""The feed-forward's residual and the per-layer embedding's block, small and at true sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.ple import PleConfig, ple
from kernels.runtime import Grid
from tests.kernels.case import Case, Operand, Size, Tensors
from tests.kernels.cases.norm import EPS, rms


def operands(config: PleConfig) -> Callable[[torch.Generator], Sequence[Operand]]:
    h, p = config.h, config.p
    shares, parts = config.gate_shares, config.projection_shares

    def make(generator: torch.Generator) -> list[Operand]:
        def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return torch.randn(*shape, generator=generator) * scale

        m, hidden, pli = normal(32, h), normal(32, h), normal(32, p)
        hidden[5] *= 30.0  # gates of tens, and a residual that hides the rest
        hidden[6] *= 1e-3
        m[6] = 0.0  # gates near zero: the norm brings their products back to 1
        m[8] *= 1e-4  # eps matters
        m[9] *= 300.0
        hidden[10] = 0.0
        pli[7] = 0.0  # nothing to add: eps keeps the norm finite
        return [
            Operand("m", m),
            Operand("w_ff", (1 + normal(1, h, scale=0.3)).expand(32, h)),
            Operand("h", hidden),
            Operand("pli", pli),
            Operand("gate", normal(h, p, scale=h**-0.5)),
            Operand("projection", normal(p, h, scale=p**-0.5)),
            Operand("w", (1 + normal(1, h, scale=0.3)).expand(32, h)),
            Operand("s", torch.full((32, 32), 0.8125)),
            Operand("identities", torch.eye(32).repeat(1, max(shares, parts))),
            Operand("h2", torch.empty(32, h), role="scratch"),
            Operand("sums", torch.empty(32 * shares, p), role="scratch"),
            Operand("act", torch.empty(32, p), role="scratch"),
            Operand("parts", torch.empty(32 * parts, h), role="scratch"),
            Operand("y", torch.empty(32, h), role="write"),
        ]

    return make


def oracle(held: Tensors) -> Tensors:
    h2 = (held["h"] + rms(held["m"], held["w_ff"])).bfloat16().float()
    gate = (h2 @ held["gate"]).double()
    gelu = torch.nn.functional.gelu(gate, approximate="tanh").float()
    e = (gelu * held["pli"]) @ held["projection"]
    return {"y": (h2 + rms(e, held["w"])) * held["s"][0, 0]}


def case(label: str, h: int, p: int, grid: Grid, size: Size) -> Case:
    config = PleConfig(h, grid, p, EPS)
    return Case(
        name=f"ple-{label}",
        kernel="ple",
        shapes=f"32 × {h} · {h} × {p} · {p} × {h}",
        grid=grid,
        operation=lambda: ple(config),
        operands=operands(config),
        oracle=oracle,
        size=size,
        roundings=3.0,
        weights=("gate", "projection"),
    )


CASES = [
    case("two-nodes", 96, 64, (2, 1), "small"),
    case("four-nodes", 64, 64, (2, 2), "small"),
    case("idle-row", 96, 64, (2, 2), "small"),
    case("e2b", 1536, 256, (11, 10), "full"),
    case("e4b", 2560, 256, (11, 10), "full"),
    case("e2b-n150", 1536, 256, (8, 8), "full"),
    case("e4b-n150", 2560, 256, (8, 8), "full"),
]
