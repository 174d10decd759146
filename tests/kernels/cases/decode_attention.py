"""Attention of decode rows with a unit's positions split over cores."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.decode_attention import DecodeAttentionConfig, decode_attention
from kernels.runtime import Grid
from tests.kernels.case import Case, Operand, Size
from tests.kernels.cases.attention import (
    HUGE,
    See,
    causal,
    everything,
    first_only,
    operands,
    oracle,
    ragged,
    wrapped,
)


def case(
    label: str,
    config: DecodeAttentionConfig,
    see: See,
    scale: float = 1.0,
    size: Size = "small",
    bound: float = 2.0,
) -> Case:
    def with_scratch(generator: torch.Generator) -> Sequence[Operand]:
        *inputs, o = operands(config.units, config.s, config.d, see, scale)(generator)
        return [*inputs, Operand("scratch", torch.empty(config.scratch_shape), role="scratch"), o]

    return Case(
        name=f"decode_attention-{label}",
        kernel="decode_attention",
        shapes=f"{config.units} × 32 × {config.d}, {config.s} positions, chain {config.chain}",
        grid=config.grid,
        operation=lambda: decode_attention(config),
        operands=with_scratch,
        oracle=lambda held: oracle(held, config.s),
        size=size,
        roundings=bound,
        weights=("k", "v") if config.units * config.chain >= 64 or size == "small" else (),
    )


P150: Grid = (11, 10)
N150: Grid = (8, 8)
Config = DecodeAttentionConfig
CASES = [
    case("two-nodes", Config(1, 64, 64, (2, 1), 2, 1), everything),
    case("nothing-seen-by-one", Config(1, 64, 64, (2, 1), 2, 1), first_only),
    case("unused-rows", Config(1, 128, 32, (2, 1), 2, 2), ragged),
    case("uneven-shares", Config(1, 160, 64, (3, 1), 3, 1), causal, 3.0),
    case("large-scores", Config(1, 128, 64, (2, 1), 2, 1), everything, 10.0),
    case("huge-scores", Config(1, 64, 64, (2, 1), 2, 1), everything, 60.0, bound=HUGE),
    case("ring-wrap", Config(2, 64, 64, (2, 2), 2, 1), wrapped, 2.0),
    case("idle-node", Config(1, 64, 64, (3, 1), 2, 1), causal, 2.0),
    case("uneven-units", Config(3, 64, 64, (2, 2), 2, 1), causal, 2.0),
    case("e4b-ring-1", Config(2, 512, 256, P150, 8, 2), wrapped, 3.0, "full"),
    case("e4b-full-1-1k", Config(2, 1024, 512, P150, 8, 4), causal, 3.0, "full"),
    case("e4b-full-1-8k", Config(2, 8192, 512, P150, 32, 4), causal, 3.0, "full"),
    case("e4b-full-1-8k-55", Config(2, 8192, 512, P150, 55, 2), causal, 3.0, "full"),
    case("e2b-full-1-8k", Config(1, 8192, 512, P150, 64, 4), causal, 3.0, "full"),
    case("e2b-ring-32", Config(32, 512, 256, P150, 3, 1), wrapped, 3.0, "full"),
    case("e4b-full-1-8k-n150", Config(2, 8192, 512, N150, 32, 4), causal, 3.0, "full"),
    case("e2b-ring-32-n150", Config(32, 512, 256, N150, 2, 4), wrapped, 3.0, "full"),
]
