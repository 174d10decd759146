"""Attention of decode rows on one core a unit: windows, rings, first positions, unused rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.attention import AttentionConfig, flash_attention
from kernels.runtime import Grid
from tests.kernels.case import Case, Operand, Size, Tensors

UNSEEN = -30000.0
HUGE = 6.0
"""Bound at scores of 200, where the matrix engine's own rounding of a score shows."""
See = Callable[[int, int, torch.Generator], torch.Tensor]
"""Of (units, s): which of [units, 32, s] a row sees."""


def everything(units: int, s: int, _: torch.Generator) -> torch.Tensor:
    return torch.ones(units, 32, s, dtype=torch.bool)


def first_only(units: int, s: int, _: torch.Generator) -> torch.Tensor:
    """The first token of a sequence: one position."""
    return (torch.arange(s) == 0).expand(units, 32, s)


def causal(units: int, s: int, generator: torch.Generator) -> torch.Tensor:
    """Rows of a chunk at different positions of a half-full bucket, four query heads each."""
    last = (
        s // 2 + torch.arange(32) // 4 + torch.randint(0, s // 4, (units, 1), generator=generator)
    )
    return torch.arange(s) <= last[..., None]


def wrapped(units: int, s: int, generator: torch.Generator) -> torch.Tensor:
    """A ring past its end, its oldest slots out of a window shorter than the ring by a chunk."""
    window, newest = s - 8, 3 * s + 5 + torch.randint(0, s, (units, 1, 1), generator=generator)
    slot = torch.arange(s)
    position = newest - (newest - slot) % s
    row = newest - 7 + (torch.arange(32) // 4)[:, None]
    return (position <= row) & (row - position < window)


def ragged(units: int, s: int, _: torch.Generator) -> torch.Tensor:
    """Only the last block is seen, and only by the first 8 rows: the others are unused."""
    seen = torch.zeros(units, 32, s, dtype=torch.bool)
    seen[:, :8, s - 20 :] = True
    return seen


def operands(
    units: int, s: int, d: int, see: See, scale: float
) -> Callable[[torch.Generator], Sequence[Operand]]:
    """Scores of deviation `scale`; the values as normed ones are, of size 1."""

    def make(generator: torch.Generator) -> list[Operand]:
        def normal(rows: int) -> torch.Tensor:
            return torch.randn(units * rows, d, generator=generator)

        q, k, v = normal(32) * scale * d**-0.5, normal(s), normal(s)
        mask = torch.where(see(units, s, generator), 0.0, UNSEEN)
        return [
            Operand("q", q),
            Operand("k", k),
            Operand("v", v),
            Operand("mask", mask.reshape(units * 32, s)),
            Operand("o", torch.empty(units * 32, d), role="write"),
        ]

    return make


def oracle(held: Tensors, s: int) -> Tensors:
    """By rows that see something; the others are only asked to be finite, by the zero there."""
    units = held["q"].shape[0] // 32
    q, mask = (held[name].reshape(units, 32, -1) for name in ("q", "mask"))
    k, v = (held[name].reshape(units, s, -1) for name in ("k", "v"))
    o = torch.softmax(q @ k.mT + mask, -1) @ v
    return {"o": o.reshape(units * 32, -1)}


def case(
    label: str,
    config: AttentionConfig,
    see: See,
    scale: float = 1.0,
    size: Size = "small",
    bound: float = 2.0,
) -> Case:
    return Case(
        name=f"flash_attention-{label}",
        kernel="flash_attention",
        shapes=f"{config.units} × 32 × {config.d}, {config.s} positions",
        grid=config.grid,
        operation=lambda: flash_attention(config),
        operands=operands(config.units, config.s, config.d, see, scale),
        oracle=lambda held: oracle(held, config.s),
        size=size,
        roundings=bound,
        weights=("k", "v") if size == "small" or config.units >= 64 else (),
    )


ONE: Grid = (1, 1)
P150: Grid = (11, 10)
N150: Grid = (8, 8)
CASES = [
    case("one-block", AttentionConfig(1, 64, 64, ONE, 2), everything),
    case("first-position", AttentionConfig(1, 64, 64, ONE, 1), first_only),
    case("small-scores", AttentionConfig(1, 128, 64, ONE, 2), causal, 1e-3),
    case("large-scores", AttentionConfig(1, 128, 64, ONE, 2), causal, 10.0),
    case("huge-scores", AttentionConfig(1, 96, 64, ONE, 1), everything, 60.0, bound=HUGE),
    case("bucket-edge", AttentionConfig(1, 96, 32, ONE, 1), causal, 2.0),
    case("ring-wrap", AttentionConfig(2, 64, 64, ONE, 1), wrapped, 2.0),
    case("unused-rows", AttentionConfig(1, 128, 32, ONE, 2), ragged),
    case("uneven", AttentionConfig(3, 64, 32, (2, 1), 1), causal, 3.0),
    case("idle-node", AttentionConfig(1, 64, 64, (2, 1), 2), causal, 3.0),
    case("e4b-ring", AttentionConfig(64, 512, 256, P150, 8), wrapped, 3.0, "full"),
    case("e4b-full-2", AttentionConfig(2, 256, 512, (2, 1), 4), causal, 3.0, "full"),
    case("e4b-full", AttentionConfig(64, 1024, 512, P150, 4), causal, 3.0, "full"),
    case("e4b-ring-n150", AttentionConfig(64, 512, 256, N150, 8), wrapped, 3.0, "full"),
    case("e4b-full-n150", AttentionConfig(64, 1024, 512, N150, 4), causal, 3.0, "full"),
]
