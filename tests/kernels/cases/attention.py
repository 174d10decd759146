"""Attention over units: windows, rings, staging, first positions, unused rows, parts, waves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.attention import AttentionConfig, attention
from kernels.runtime import Format, Grid
from kernels.units import STAGED, UNSEEN, Chunk, chunk_masks
from tests.kernels.case import Case, Operand, Size, Tensors

HUGE = 6.0
"""Bound at scores of 200, where the matrix engine's own rounding of a score shows."""
Masks = tuple[torch.Tensor, torch.Tensor]
See = Callable[[AttentionConfig], Masks]
"""What is added to the scores of cached places and of staged ones, by chunk."""


def everything(config: AttentionConfig) -> Masks:
    rows = config.waves * config.slots * 32
    return torch.zeros(rows, config.s), torch.zeros(rows, STAGED)


def standing(
    at: int, rows: int = 8, group: int = 4, window: int | None = None, shift: int = 0
) -> See:
    """Each slot has `rows` positions a wave, the first at `at`, `shift` further a slot."""

    def masks(config: AttentionConfig) -> Masks:
        new = config.waves * rows
        positions = [at + shift * slot + row for slot in range(config.slots) for row in range(new)]
        chunks = [
            Chunk(slot, tuple(slot * new + wave * rows + row for row in range(rows)))
            for wave in range(config.waves)
            for slot in range(config.slots)
        ]
        return chunk_masks(chunks, positions, group, config.s, config.stride, window)

    return masks


def few_staged(config: AttentionConfig) -> Masks:
    """Only the last staged places are seen, and only by the first 8 rows: the others are unused."""
    mask, mask_staged = (torch.full_like(m, UNSEEN) for m in everything(config))
    mask_staged.view(-1, 32, STAGED)[:, :8, STAGED - 20 :] = 0.0
    return mask, mask_staged


def operands(
    config: AttentionConfig, see: See, scale: float, spare: int, masks: Format
) -> Callable[[torch.Generator], Sequence[Operand]]:
    """Scores of deviation `scale`; the values as normed ones are, of size 1."""

    def make(generator: torch.Generator) -> list[Operand]:
        d, held = config.d, (config.slots + spare) * config.kv_heads

        def normal(rows: int) -> torch.Tensor:
            return torch.randn(rows, d, generator=generator)

        mask, mask_staged = see(config)
        return [
            Operand("q", normal(config.units * 32) * scale * d**-0.5),
            Operand("k", normal(held * config.stride)),
            Operand("v", normal(held * config.stride)),
            Operand("k_staged", normal(held * STAGED)),
            Operand("v_staged", normal(held * STAGED)),
            Operand("mask", mask, masks),
            Operand("mask_staged", mask_staged, masks),
            Operand("scratch", torch.empty(config.scratch_shape), role="scratch"),
            Operand("o", torch.empty(config.units * 32, d), role="write"),
        ]

    return make


def oracle(held: Tensors, config: AttentionConfig) -> Tensors:
    """Whole softmaxes over what each unit reads; rows that see nothing get one of all they read."""
    owners, waves = config.slots * config.kv_heads, config.waves

    def places(name: str) -> torch.Tensor:
        cached = held[name].view(-1, config.stride, config.d)[:owners, : config.s]
        staged = held[f"{name}_staged"].view(-1, STAGED, config.d)[:owners]
        return torch.cat([cached, staged], 1).repeat(waves, 1, 1)

    masks = torch.cat([held["mask"], held["mask_staged"]], 1)
    mask = masks.view(waves * config.slots, 32, -1).repeat_interleave(config.kv_heads, 0)
    q = held["q"].view(config.units, 32, -1)
    scores = (q @ places("k").mT).double() + mask
    o = torch.softmax(scores, -1).float() @ places("v")
    return {"o": o.reshape(-1, config.d)}


def case(
    label: str,
    config: AttentionConfig,
    see: See,
    scale: float = 1.0,
    size: Size = "small",
    bound: float = 2.0,
    spare: int = 0,
    masks: Format = "bf16",
) -> Case:
    """`spare`: slots that tensors hold and the program does not cover; `masks`: their format."""
    places = str(config.s) if config.s == config.stride else f"{config.s} of {config.stride}"
    read_once = config.waves == 1 and config.s == config.stride and not spare
    by_many = size == "full" and config.units * config.parts >= 64
    return Case(
        name=f"attention-{label}",
        kernel="attention",
        shapes=f"{config.units} × 32 × {config.d}, {places} + {STAGED} places by {config.part}"
        + (f", {masks} masks" if masks != "bf16" else ""),
        grid=config.grid,
        operation=lambda: attention(config),
        operands=operands(config, see, scale, spare, masks),
        oracle=lambda held: oracle(held, config),
        size=size,
        roundings=bound,
        weights=("k", "v") if read_once and by_many else (),
        refused={} if masks == "bf16" else {"wolfpine": "block floats"},
    )


TWO: Grid = (2, 1)
P150: Grid = (11, 10)
N150: Grid = (8, 8)
Config = AttentionConfig
CASES = [
    case("one-unit", Config(1, 1, 64, 64, 64, TWO, 64), everything),
    case("first-position", Config(1, 1, 64, 64, 64, TWO, 64), standing(0, rows=1)),
    case("nothing-cached", Config(2, 1, 64, 64, 32, TWO, 64), standing(23, shift=3)),
    case("small-scores", Config(1, 1, 64, 64, 64, TWO, 64), standing(80), 1e-3),
    case("large-scores", Config(1, 1, 64, 128, 64, TWO, 64), standing(70), 10.0),
    case("huge-scores", Config(1, 1, 64, 64, 64, TWO, 64), everything, 60.0, bound=HUGE),
    case("huge-unseen", Config(1, 1, 128, 128, 32, TWO, 64), standing(50), 60.0, bound=HUGE),
    case("bucket-edge", Config(1, 1, 128, 192, 32, TWO, 64), standing(184), 2.0),
    case("short-part", Config(2, 1, 64, 192, 32, (3, 1), 128), standing(88, shift=7), 2.0),
    case(
        "ring-wrap",
        Config(2, 1, 128, 128, 64, (2, 2), 64),
        standing(411, window=128, shift=40),
        2.0,
    ),
    case("wide-block", Config(2, 1, 256, 256, 64, TWO, 128), standing(211, shift=30), 3.0),
    case("groups", Config(1, 2, 1280, 2560, 64, (3, 2), 64), standing(1300), 3.0),
    case("whole-groups", Config(2, 1, 2048, 2048, 32, (3, 2), 64), standing(1970, shift=60), 3.0),
    case("group-of-few", Config(1, 1, 64, 2048, 64, (2, 2), 64), standing(40), 3.0),
    case("masks-bfp8", Config(1, 1, 128, 128, 64, TWO, 64), standing(140), 3.0, masks="bfp8"),
    case(
        "masks-bfp4",
        Config(2, 1, 256, 256, 64, TWO, 128),
        standing(411, window=128, shift=40),
        3.0,
        masks="bfp4",
    ),
    case("unused-rows", Config(1, 1, 64, 64, 32, TWO, 64), few_staged),
    case("idle-node", Config(1, 1, 64, 64, 32, (3, 2), 64), standing(60), 3.0),
    case("two-heads", Config(1, 2, 192, 256, 32, (3, 1), 64), standing(210), 3.0, spare=1),
    case(
        "heads-waves",
        Config(2, 2, 128, 128, 32, (3, 2), 64, waves=2),
        standing(150, shift=20),
        3.0,
        spare=1,
    ),
    case(
        "four-waves",
        Config(2, 1, 64, 64, 32, TWO, 64, waves=4),
        standing(100, window=64, shift=30),
        3.0,
    ),
    case(
        "e2b-ring-1",
        Config(1, 1, 512, 512, 256, P150, 128),
        standing(900, 1, 8, 512),
        3.0,
        "full",
    ),
    case(
        "e2b-ring-32",
        Config(32, 1, 512, 512, 256, P150, 128),
        standing(900, 1, 8, 512, 77),
        3.0,
        "full",
    ),
    case(
        "e2b-ring-prompts",
        Config(4, 1, 512, 512, 256, P150, 128, waves=4),
        standing(900, 4, 8, 512, 100),
        3.0,
        "full",
        spare=4,
    ),
    case(
        "e2b-full-first",
        Config(4, 1, 128, 1024, 512, P150, 1024),
        standing(3, 1, 8, shift=50),
        3.0,
        "full",
    ),
    case(
        "e2b-full-prompts",
        Config(4, 1, 1024, 2048, 512, P150, 1024, waves=4),
        standing(800, 4, 8, shift=70),
        3.0,
        "full",
    ),
    case(
        "e2b-full-1-8k",
        Config(1, 1, 8192, 8192, 512, P150, 1024),
        standing(7990, 4, 8),
        3.0,
        "full",
    ),
    case(
        "e4b-ring-32",
        Config(32, 2, 512, 512, 256, P150, 128),
        standing(2000, 1, 4, 512, 77),
        3.0,
        "full",
    ),
    case(
        "e2b-full-1-32k-bfp4",
        Config(1, 1, 32768, 32768, 512, P150, 1024),
        standing(32700, 1, 8),
        3.0,
        "full",
        masks="bfp4",
    ),
    case(
        "e2b-full-1-32k-bfp4-n150",
        Config(1, 1, 32768, 32768, 512, N150, 1024),
        standing(32700, 1, 8),
        3.0,
        "full",
        masks="bfp4",
    ),
    case(
        "e4b-full-1-8k",
        Config(1, 2, 8192, 8192, 512, P150, 256),
        standing(8100, 8, 4),
        3.0,
        "full",
    ),
    case(
        "e4b-full-32",
        Config(32, 2, 1024, 1024, 512, P150, 1024),
        standing(700, 1, 4, shift=11),
        3.0,
        "full",
    ),
    case(
        "e4b-ring-32-n150",
        Config(32, 2, 512, 512, 256, N150, 128),
        standing(2000, 1, 4, 512, 77),
        3.0,
        "full",
    ),
    case(
        "e4b-full-4-n150",
        Config(4, 2, 1024, 1024, 512, N150, 1024),
        standing(700, 1, 4, shift=101),
        3.0,
        "full",
    ),
]
